"""SegNet in carvana: what every architecture must do, and a training that leaves a model."""

import carvana
import carvana.testing

pytest_plugins = ["carvana.testing.fixtures"]


def test_the_contract():
    carvana.testing.check_plugin("carvana-segnet", options={"segnet": {"width": 4}})


def test_a_training_leaves_a_model_that_reads_back(tiny_config, tmp_path):
    carvana.fit(tiny_config.replace({"arch": "segnet", "model.options": {"width": 4}}), out=tmp_path / "run")
    spec = carvana.Segmenter.from_pretrained(tmp_path / "run").spec
    assert (spec.arch, spec.package, spec.options) == ("segnet", "carvana-segnet", {"width": 4})
