"""The summary of a network, against counts that are published or known by hand."""

import pytest

from mnet_jax import models


def rows_of(text):
    """The cells of each row of the summary's table, by layer."""
    rows = (line.split() for line in text.splitlines() if "x" in line and "images" not in line)
    return {row[0]: row[1:] for row in rows}


def test_the_summary_has_the_networks_published_totals():
    text = models.mobilenet_v2().summary(224)
    assert "3,504,872 trainable" in text and "300,774,272 an image" in text  # torchvision's V2
    rows = rows_of(text)
    stem = 3 * 3 * 3 * 32
    assert rows["stem"] == ["conv", "112x112x32", f"{stem + 64:,}", f"{stem * 112 * 112:,}"]
    assert rows["head/classifier"] == ["dense", "1x1x1000", "1,281,000", "1,280,000"]
    numbers = [[int(cell.replace(",", "")) for cell in row[2:]] for row in rows.values()]
    assert [sum(column) for column in zip(*numbers, strict=True)] == [3_504_872, 300_774_272]
    assert max(map(len, text.splitlines())) <= 80


def test_the_summary_takes_rows_and_columns_and_refuses_images_without_output():
    model = models.mobilenet_v1(width=0.25, dialect="slim")
    assert "images 64x96x3" in model.summary((64, 96))
    assert rows_of(model.summary((64, 96)))["stem"][1] == "32x48x8"
    with pytest.raises(ValueError, match="resolution: got 0"):
        model.summary(0)
