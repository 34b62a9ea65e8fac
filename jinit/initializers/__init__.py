"""Initializers: functions `(key, shape, dtype=None, out_sharding=None) -> Array`, equal by value."""
