import numpy as np
import pytest

from experiments import plotting


@pytest.mark.parametrize("points", [1, 3])
def test_a_band_is_seen_however_short(points, tmp_path):
    mean = np.array([1.0, 2.0, np.inf, 4.0])
    with plotting.saved_figure(tmp_path / "band") as (figure, panels):
        panel = panels[0, 0]
        panel.set_axis_off()
        figure.canvas.draw()
        empty = np.asarray(figure.canvas.buffer_rgba()).copy()
        shown = {1: slice(1, 3), 3: slice(None)}[points]
        x = np.arange(4.0)[shown]
        plotting.draw_band(panel, x, mean[shown], np.ones_like(x), "maml")
        figure.canvas.draw()
        drawn = np.asarray(figure.canvas.buffer_rgba())
    assert (empty != drawn).any()
    handles, labels = panel.get_legend_handles_labels()
    assert len(handles) == 1
    assert labels == [plotting.name_of("maml")]
