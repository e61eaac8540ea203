"""A user model of a shop: with a UUID as its key, an address as its name, and a proxy."""
