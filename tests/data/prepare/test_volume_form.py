"""How all volumes of a set are stored."""

import pytest

from trainer.data.dataset import schema
from trainer.data.dataset.volume_examples import Channel
from trainer.data.formats import discovery
from trainer.data.prepare import classes, intensities, labels, volume_form
from trainer.data.prepare.pairs import Pair
from trainer.errors import InputError

TWO = (schema.Class("background", 0), schema.Class("organ", 7))


def survey(shape, spacing, box=None, by_value=None, label="a.nii"):
    source = discovery.Source("a", label, None, label)
    return volume_form.Survey(
        pair=Pair((source,), source, box=box or tuple((0, side) for side in shape)),
        mask=labels.Seen(label, "plain", (0.0, 7.0)),
        digest=b"",
        shape=shape,
        channels=1,
        spacing=spacing,
        histograms=(by_value,),
    )


def test_volumes_get_the_median_spacing_and_the_schemes_of_their_channels():
    rule = labels.Rule(classes.Given(), TWO)
    training = [
        survey((10, 40, 40), (2.0, 1.0, 1.0), by_value={0: HIGH, 7: LOW}),
        survey((20, 40, 40), (1.0, 1.0, 1.0), by_value={7: LOW}),
        survey((10, 40, 40), (2.0, 1.0, 1.0), by_value={0: HIGH}),
    ]
    form = volume_form.choose(rule, training, ["CT"], "plan", 160)
    assert form.volumes.spacing == (2.0, 1.0, 1.0)
    assert form.volumes.channels == (Channel("CT", "ct", 10.0, 0.0, 10.0, 10.0),)
    assert form.volumes.block is None
    assert form.shape_of(training[1]) == (10, 40, 40)


HIGH, LOW = intensities.histogram([1000] * 8), intensities.histogram([10] * 4)


def test_where_classes_are_given_their_ids_count():
    rule = labels.Rule(classes.Given(TWO, ignore=9), TWO)
    by_class = {0: HIGH, 1: LOW, schema.IGNORE: HIGH, classes.UNKNOWN: HIGH}
    form = volume_form.choose(
        rule, [survey((4, 4, 4), (1, 1, 1), by_value=by_class)], ["ct"], "none", 160
    )
    assert form.volumes.channels[0].mean == 10.0
    assert form.volumes.spacing is None


@pytest.mark.parametrize(("side", "scheme"), [(9, "zscore"), (5, "nonzero")])
def test_the_zeros_around_a_volume_count_where_they_are_few(side, scheme):
    box = ((0, 10), (0, 10), (0, side))
    rule = labels.Rule(classes.Given(), TWO)
    form = volume_form.choose(rule, [survey((10, 10, 10), (1, 1, 1), box)], [], "none", 160)
    assert form.volumes.channels == (Channel("0", scheme),)


def test_large_volumes_are_cut_into_blocks():
    rule = labels.Rule(classes.Given(), TWO)
    training = [survey((10, 10, 10), (1, 1, 1)), survey((10, 10, 40), (1, 1, 1))]
    assert volume_form.choose(rule, training, [], "none", 40).volumes.block is None
    assert volume_form.choose(rule, training, [], "none", 39).volumes.block == (39, 39, 39)
    # With voxels of 2 mm it has half as many.
    assert volume_form.choose(rule, training, [], "2,2,2", 39).volumes.block is None


@pytest.mark.parametrize("text", ["1,1", "a,b,c", "1,0,1", "inf,1,1", "nan,1,1", "", "1,1,1,1"])
def test_another_spacing_is_refused(text):
    with pytest.raises(InputError, match="is neither plan, none nor three lengths in mm"):
        volume_form.parse_spacing(text)


def test_volumes_of_other_channels_are_refused():
    one = survey((4, 4, 4), (1, 1, 1))
    with pytest.raises(InputError, match="a.nii has 1 channels, and T1,T2 names 2"):
        volume_form.check_channels([one], ["T1", "T2"])
