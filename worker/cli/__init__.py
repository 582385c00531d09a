"""The commands: arguments in, parts called, sentences out."""
