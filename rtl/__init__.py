"""The machine, in Amaranth. It knows no network: it sees instructions."""
