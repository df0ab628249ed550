// Package dns knows no DNS provider. In lego it imports the clients of all of them.
package dns

import (
	"fmt"

	"github.com/go-acme/lego/v5/challenge"
)

// NewDNSChallengeProviderByName always fails.
func NewDNSChallengeProviderByName(name string) (challenge.Provider, error) {
	return nil, fmt.Errorf("this build knows no DNS provider, so not %q", name)
}
