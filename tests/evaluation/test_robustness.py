import torch
from hypothesis import given
from hypothesis import strategies as st

from fastadv.evaluation.robustness import (
    WORST,
    cell,
    grid,
    markdown,
    rate,
    robustness_figure,
    worst,
)


def flags(text):
    return torch.tensor([[mark == "1" for mark in seed] for seed in text.split()])


HELD = {"clean": flags("1111 1110"), "FGSM": flags("0111 1100"), "PGD": flags("1101 1000")}


@given(st.integers(0, 10**6))
def test_the_worst_case_is_no_better_than_any_attack_and_a_sample_holds_only_if_it_holds_always(seed):
    generator = torch.Generator().manual_seed(seed)
    held = {str(k): torch.rand(3, 20, generator=generator) < 0.9 for k in range(4)}
    assert all(rate(worst(held)).value <= rate(each).value for each in held.values())
    for sample in range(20):
        assert worst(held)[1, sample] == all(each[1, sample] for each in held.values())


def test_a_cell_has_the_rate_of_all_seeds_its_interval_and_the_lowest_and_highest_seed():
    assert (rate(HELD["clean"]).count, rate(HELD["clean"]).n) == (7, 8)
    assert cell(HELD["clean"]) == "87.5 [52.9, 97.8] 75.0 to 100.0"
    assert cell(HELD["PGD"][:1]) == "75.0 [30.1, 95.4]"


def test_a_table_ends_with_the_worst_case_and_is_rectangular_markdown():
    rows = grid({"ReLU": HELD, "k-WTA": {name: ~held for name, held in HELD.items()}})
    assert rows[0] == ["attack", "ReLU (n=8)", "k-WTA (n=8)"]
    assert [row[0] for row in rows[1:]] == ["clean", "FGSM", "PGD", WORST]
    assert rows[-1][1] == cell(flags("0101 1000"))
    lines = markdown(rows).splitlines()
    assert lines[1] == "| --- | --- | --- |"
    assert {line.count("|") for line in lines} == {4}
    assert lines[-1].startswith(f"| {WORST} | {rows[-1][1]} |")


def test_the_figure_has_a_panel_for_each_training_and_points_at_the_rates_within_their_intervals():
    figure = robustness_figure({"natural": {"ReLU": HELD}, "adversarial": {"ReLU": HELD, "k-WTA": HELD}})
    assert [axes.get_title() for axes in figure.axes] == ["natural", "adversarial"]
    for axes, nets in zip(figure.axes, (1, 2), strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "FGSM", "PGD", WORST]
        assert len(axes.containers) == nets
        for points, _, (bars,) in axes.containers:
            heights = points.get_ydata()
            assert heights.tolist() == [87.5, 62.5, 50.0, 37.5]
            for height, held, bar in zip(
                heights, [*HELD.values(), worst(HELD)], bars.get_segments(), strict=True
            ):
                low, high = rate(held).interval()
                torch.testing.assert_close(
                    torch.tensor(bar[:, 1]), torch.tensor([low, high]).double() * 100, atol=1e-3, rtol=0
                )
                assert bar[0, 1] <= height <= bar[1, 1]
