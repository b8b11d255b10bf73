"""QONNX files: export of what was trained (`exporting`) or of the machine's integers (`integers`), and import."""
