"""The client of a served model: asks every item, tests the API by using it, leaves evidence."""
