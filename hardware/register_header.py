"""The register map as a C header, for drivers that are not Python."""

from hardware.registers import FORMAT, MAGIC, REGISTERS, ErrorCode


def register_header() -> str:
    """``CODESIGN_REGISTER`` is a byte offset, ``CODESIGN_REGISTER_FIELD`` a mask, ``CODESIGN_ERROR_NAME`` a code."""
    lines = [
        "/* Registers of the machine, see registers.md. */",
        "#ifndef CODESIGN_REGISTERS_H",
        "#define CODESIGN_REGISTERS_H",
    ]

    def define(name: str, value: int, text: str = "") -> None:
        lines.append(f"#define CODESIGN_{name.upper()} 0x{value:x}u" + (f" /* {text} */" if text else ""))

    define("magic_value", MAGIC)
    define("format_value", FORMAT)
    for register in REGISTERS:
        define(register.name, register.offset, register.text)
        if register.places > 1:
            define(f"{register.name}_high", register.offset + 4)
        if len(register.fields) > 1:
            for field in register.fields:
                define(register.port(field), field.mask, field.text)
    for code in ErrorCode:
        define(f"error_{code.name}", code.value)
    return "\n".join([*lines, "#endif"]) + "\n"
