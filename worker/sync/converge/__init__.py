"""Closing gaps: the only part that changes Moodle."""
