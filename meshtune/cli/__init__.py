"""The command line: options, printing, the live view; nothing that decides."""
