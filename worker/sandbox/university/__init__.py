"""An invented university: its student records and their messages."""
