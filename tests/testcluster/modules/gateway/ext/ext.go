// Package ext stands in for a package that Traefik extends its configuration with, and does not publish. It adds nothing.
package ext

// HTTP extends the HTTP configuration.
type HTTP struct{}

// Router extends a router.
type Router struct{}
