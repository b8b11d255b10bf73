"""``codesign list``: the names that the other commands take."""

from codesign.commands.common import JsonOption, Result, out, table
from codesign.data import data_names
from codesign.gradient_agents import GRADIENT_AGENTS
from codesign.networks import network_names
from hardware.accelerator import accelerator_names
from hardware.bitfusion_published import PUBLISHED_MACHINES
from hardware.board import board_names
from policies.agent import agent_names


def command(json: JsonOption = None) -> None:
    """List networks, data sets, accelerators, published machines, boards and agents."""
    result = Result("list", json)
    names = {
        "networks": network_names(),
        "data": data_names(),
        "accelerators": accelerator_names(),
        "published machines": list(PUBLISHED_MACHINES),
        "boards": board_names(),
        "agents": [*agent_names(), *GRADIENT_AGENTS],
    }
    lines = table("", "kind", "names")
    for kind, known in names.items():
        lines.add_row(kind, ", ".join(known))
    out.print(lines)
    result.write(dict(names))
