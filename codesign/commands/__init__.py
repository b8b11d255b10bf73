"""The command line, a module per command; each prints tables for people and writes ``--json`` for programs."""
