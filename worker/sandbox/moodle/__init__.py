"""A Moodle on the real wire format, for the demo and the tests."""
