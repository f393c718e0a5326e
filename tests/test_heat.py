import re

import pandas as pd
import pytest
from finished_runs import recompute_figures, write_and_read

from reports.heat import heat_maps
from reports.runs import read_run


def test_a_grid_of_two_options_has_a_map_of_each_figure(grid, tmp_path):
    table, _, page = write_and_read(tmp_path / "report", grid)
    runs = {entry.folder: read_run(entry.folder) for entry in grid if entry.folder}
    maps = heat_maps(grid, runs, ("F1", "ccc_arousal"))
    assert [found.title for found in maps] == ["F1, speaker", "CCC arousal, speaker"]
    assert (maps[0].down, maps[0].across, maps[0].columns) == ("lam", "backbone", ["lstm", "gru"])
    cells = {(lam, name): cell for lam, row in maps[0].rows for name, cell in zip(maps[0].columns, row, strict=True)}
    figures = {}
    for entry in grid:
        if entry.folder:
            place = entry.options["lam"], entry.options["backbone"]
            figures.setdefault(place, []).append(recompute_figures(entry.folder)["F1"])
    means = pd.Series({place: sum(values) / 2 for place, values in figures.items()})
    assert len(cells) == 6
    assert cells["0.6", "gru"] == ("-", 0.0, False)  # it lacks its runs
    for place, mean in means.items():
        assert float(cells[place].text) == pytest.approx(mean, abs=1.1e-3)
    best, worst = means.idxmax(), means.idxmin()
    assert (cells[best].share, cells[best].best) == (1.0, True)
    assert (cells[worst].share, cells[worst].best) == (0.0, False)
    assert sum(cell.best for cell in cells.values()) == 1
    titles = re.findall('aria-label="Heat map, (.*?), speaker"', page)
    assert titles == ["weighted F1", "CCC arousal", "CCC valence", "F1"]
    assert re.search(rf'aria-label="best">★</span> {cells[best].text}</td>', page)
    assert len(table) == 6


def test_other_tables_have_no_map(grid, entries, finished_runs):
    runs = {entry.folder: read_run(entry.folder) for entry in grid if entry.folder}
    one = [entry for entry in grid if entry.options["backbone"] == "lstm"]
    three = [*grid, grid[0]._replace(row="x", options=grid[0].options | {"no_concat": "yes"})]
    mixed = [*grid, grid[0]._replace(row="x", options={"lam": "0.5"})]
    for other in (one, three, mixed):
        assert heat_maps(other, runs, ["F1"]) == []
    assert heat_maps(entries, {folder: read_run(folder) for folder in finished_runs.values()}, ["F1"]) == []
    assert heat_maps(grid, {}, ["F1"]) == []  # nothing has finished
