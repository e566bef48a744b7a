"""One thin module per command: parse, call one library function, show progress, turn errors into messages."""
