"""The three custom resources as pydantic models. The files in `crds/` are generated from them."""
