"""SegNet in carvana: the checks for every architecture, and one training."""

import carvana
import carvana.testing

pytest_plugins = ["carvana.testing.fixtures"]


def test_it_passes_the_checks_for_plugins():
    carvana.testing.check_plugin("carvana-segnet", options={"segnet": {"width": 4}})


def test_several_classes_train_to_labels_in_the_values_of_the_files(tiny_config, tmp_path):
    task = {"task.classes": {"ground": 0, "car": "1-255"}, "train.class_weights": "balanced"}
    run = carvana.fit(
        tiny_config.replace({"arch": "segnet", "model.options": {"width": 4}, **task}), out=tmp_path / "run"
    )
    model = carvana.Segmenter.from_pretrained(run.path)
    assert (model.spec.classes, model.spec.task.names) == (2, ["ground", "car"])
    numbers = run.read_evaluation()
    assert [each["name"] for each in numbers["per_class"]] == ["ground", "car"]
    assert 0 <= numbers["miou"] == numbers["score"] <= 1


def test_a_training_saves_a_model_that_can_be_loaded(tiny_config, tmp_path):
    carvana.fit(tiny_config.replace({"arch": "segnet", "model.options": {"width": 4}}), out=tmp_path / "run")
    spec = carvana.Segmenter.from_pretrained(tmp_path / "run").spec
    assert (spec.arch, spec.package, spec.options) == ("segnet", "carvana-segnet", {"width": 4})
