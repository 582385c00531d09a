"""An invented university and what its student records say."""
