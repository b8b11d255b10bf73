"""The workbench: networks, data, lowering, search runs, calibration, export, command line."""
