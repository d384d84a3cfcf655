"""What `docs/architectures.md` says is what arithmetic gives."""

import ast
import re
from pathlib import Path

import pytest
from published import COUNTS, DIALECTS, DISCREPANCIES, V1, V2, V3L, V4M, discrepant, spec_of

from mnet_jax.analysis import cost

DOCUMENT = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text()


def tables():
    """The Markdown tables of the document: lists of {heading: cell}."""
    found = []
    for lines in re.findall(r"(?:^\|.*\n)+", DOCUMENT, flags=re.MULTILINE):
        heads, rule, *rows = (
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in lines.splitlines()
        )
        assert all(set(cell) <= set("-:") for cell in rule)
        found.append([dict(zip(heads, row, strict=True)) for row in rows])
    return found


def table_with(*headings):
    (table,) = (table for table in tables() if set(headings) <= table[0].keys())
    return table


def called(text):
    """The network and options of a cell such as `mobilenet_v2(width=1.4)`."""
    call = ast.parse(text.strip("`"), mode="eval").body
    return call.func.id, {k.arg: ast.literal_eval(k.value) for k in call.keywords}


def number(text):
    return int(text.replace(",", ""))


def test_the_documents_counts_are_those_of_arithmetic():
    rows = table_with("network", "trainable", "with statistics", "resolution", "MAdds, millions")
    seen = set()
    for row in rows:
        network, options = called(row["network"])
        counted = cost.count(spec_of(network, options), int(row["resolution"]))
        assert counted.params == number(row["trainable"]), row
        assert counted.params + counted.statistics == number(row["with statistics"]), row
        assert f"{counted.madds / 1e6:,.1f}" == row["MAdds, millions"], row
        seen.add((network, *options.items(), int(row["resolution"])))
    assert len(seen) == len(rows)
    for network, options, _, _, madds in COUNTS:
        for resolution in madds:
            assert (network, *options.items(), resolution) in seen


def test_the_documents_discrepancies_are_the_tested_ones():
    rows = table_with("published", "arithmetic", "reason")
    documented = {}
    for row in rows:
        network, options = called(row["network"])
        quantity = {"parameters": "params", "MAdds": "madds"}[row["quantity"]]
        documented[row["where"]] = (network, options, quantity, float(row["published"]) * 1e6)
        counted = discrepant(network, options, quantity) / 1e6
        digits = len(row["arithmetic"].partition(".")[2])
        assert f"{counted:.{digits}f}" == row["arithmetic"], row
        assert row["reason"]
    assert documented == {
        where: (network, options, quantity, pytest.approx(published))
        for where, (network, options, quantity, published) in DISCREPANCIES.items()
    }


def test_the_documents_dialects_are_those_of_the_code():
    rows = table_with("dialect", "epsilon", "kept momentum", "dropout", "initial kernels")
    networks = {"V1": V1, "V2": V2, "V3": V3L, "V4": V4M}
    pairs = []
    for row in rows:
        for dialect in row["dialect"].split(", "):
            spec = spec_of(networks[row["version"]], {"dialect": dialect.strip("`")})
            pairs.append((row["version"], spec.dialect.name))
            assert spec.dialect.norm_epsilon == float(row["epsilon"])
            assert spec.dialect.norm_momentum == float(row["kept momentum"])
            assert spec.head.dropout == float(row["dropout"])
            paddings = (spec.dialect.padding, spec.dialect.depthwise_padding)
            assert ", ".join(dict.fromkeys(paddings)) == row["padding"]
            assert f"`{spec.dialect.initializer}`" == row["initial kernels"]
    every = [(version, d) for version, network in networks.items() for d in DIALECTS[network]]
    assert sorted(pairs) == sorted(every)


def test_the_documents_excitation_of_v3_smalls_last_convolution_is_arithmetic():
    """Of 576 channels to a quarter of them and back; Table 2 ticks it, no released model has it."""
    assert f"{576 * 144 + 144 + 144 * 576 + 576:,} parameters" in DOCUMENT
