"""The real client of the Hugging Face hub, in processes of their own, against a hub of this machine and none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import hub_server
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, metadata_load, scan_cache_dir
from safetensors.torch import load, load_file, save
from torch import Tensor

from carvana.data.samples import find_samples
from carvana.models.segmenter import Segmenter, create_model

pytestmark = pytest.mark.slow

TOKENS = {"hf_of_user": "user", "hf_of_other": "other"}

PUSH = """
import sys, carvana
from huggingface_hub import HfApi
first, second = (carvana.Segmenter.from_pretrained(folder) for folder in sys.argv[1:])
print(first.push_to_hub("user/repo"))
HfApi().create_tag("user/repo", tag="v1")
print(second.push_to_hub("user/repo"))
print(second.push_to_hub("user/repo"))
print(second.push_to_hub("user/secret", private=True))
"""

# Prints a line of JSON for each repository: the spec of its model, whose tensors go into a file, or the error.
READ = """
import json, sys, carvana
from carvana.errors import ModelError
from safetensors.torch import save_file
for name, revision, out in json.loads(sys.argv[1]):
    try:
        model = carvana.Segmenter.from_pretrained(name, revision=revision)
    except ModelError as error:
        print(json.dumps(str(error)))
    else:
        save_file(model.network.state_dict(), out)
        print(json.dumps(model.spec.to_json()))
"""

PUSH_ONLY = """
import json, sys, carvana
from carvana.errors import ModelError
try:
    print(json.dumps(carvana.Segmenter.from_pretrained(sys.argv[1]).push_to_hub(sys.argv[2])))
except ModelError as error:
    print(json.dumps({"error": str(error)}))
"""

PUSH_RUN = """
import sys, carvana
model = carvana.Segmenter.from_pretrained(sys.argv[1])
model.push_to_hub("user/plain", run=sys.argv[1])
model.push_to_hub("user/shown", run=sys.argv[1], thumbnail=True)
"""

PREDICT = """
import sys, carvana
carvana.Predictor.from_pretrained(sys.argv[1]).predict(sys.argv[2]).mask.tofile(sys.argv[3])
"""


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """What a user of the hub sets; nothing of the machine's own settings, and no proxy before this machine."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    there = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return mine | there | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"} | more


def python(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=300)


def script(code: str, *arguments: str, env: dict[str, str]) -> list[str]:
    """The lines that a script prints; it must end well."""
    done = python("-c", code, *arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def read(
    *wanted: tuple[str, str | None], out: Path, env: dict[str, str]
) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Specs and tensors of the models that a process of its own gets for names and revisions."""
    files = [str(out / f"{number}.safetensors") for number in range(len(wanted))]
    asked = json.dumps([[*pair, file] for pair, file in zip(wanted, files, strict=True)])
    specs = [json.loads(line) for line in script(READ, asked, env=env)]
    assert all(isinstance(spec, dict) for spec in specs), specs
    return [(spec, load_file(file)) for spec, file in zip(specs, files, strict=True)]


def refusals(*wanted: tuple[str, str | None], env: dict[str, str]) -> list[str]:
    """The errors that a process of its own gets for names and revisions, each of one line."""
    errors = [json.loads(line) for line in script(READ, json.dumps([[*pair, ""] for pair in wanted]), env=env)]
    assert all(isinstance(error, str) and "\n" not in error for error in errors), errors
    return errors


def same(found: dict[str, Tensor], model: Segmenter) -> bool:
    expected = model.network.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


class Story:
    """Two models pushed to one repository, and read by a process into a cache, while there was a hub."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.models = []
        for seed, threshold in ((1, 0.5), (2, 0.25)):
            torch.manual_seed(seed)
            model = create_model("unet-ref", width=4).with_spec(threshold=threshold, trained_size=(64, 96)).eval()
            model.save_pretrained(folder / f"model{seed}")
            self.models.append(model)
        with hub_server.serve(TOKENS) as self.hub:
            pusher = environment(self.hub.endpoint, folder / "other home", HF_TOKEN="hf_of_user")
            self.addresses = script(PUSH, str(folder / "model1"), str(folder / "model2"), env=pusher)
            self.env = environment(self.hub.endpoint, self.home)
            self.online = read(("user/repo", None), ("user/repo", "v1"), out=folder, env=self.env)
            secretly = self.env | {"HF_TOKEN": "hf_of_user"}
            [self.secret] = read(("user/secret", None), out=folder, env=secretly)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("story"))


@pytest.fixture
def hub() -> Iterator[hub_server.Hub]:
    with hub_server.serve(TOKENS) as hub:
        yield hub


def test_a_pushed_repository_holds_the_files_of_a_saved_model(story: Story, tmp_path: Path):
    story.models[1].save_pretrained(tmp_path)
    found = story.hub.files("user/repo")
    assert found.keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    for name in ("config.json", "model.safetensors"):
        assert found[name] == (tmp_path / name).read_bytes()
    assert same(load(story.hub.files("user/repo", "v1")["model.safetensors"]), story.models[0])


def test_pushing_gives_the_address_of_the_commit_and_the_same_again_makes_none(story: Story):
    first, second, again, _ = story.addresses
    start = f"{story.hub.endpoint}/user/repo/commit/"
    refs = story.hub.repositories["user/repo"].refs
    assert (first, second) == (start + refs["v1"], start + refs["main"])
    assert again == second
    assert len(story.hub.repositories["user/repo"].commits) == 3  # the hub's own first, and two


def test_the_card_is_read_by_the_hubs_client_and_its_example_names_the_repository(story: Story, tmp_path: Path):
    text = story.hub.files("user/repo")["README.md"].decode()
    card = ModelCard(text)
    assert card.data.library_name == "carvana"
    assert card.data.pipeline_tag == "image-segmentation"
    assert "background-removal" in card.data.tags
    assert 'carvana.Segmenter.from_pretrained("user/repo")' in card.text
    (tmp_path / "README.md").write_text(text)
    assert metadata_load(tmp_path / "README.md") == card.data.to_dict()


def test_the_card_of_a_run_is_pushed_with_its_scores_and_changes_and_its_picture_where_that_is_asked_for(
    story: Story, hub: hub_server.Hub, tmp_path: Path
):
    model, picture = story.models[0], b"\xff\xd8 a car"
    model.save_pretrained(tmp_path / "run" / "model", metrics={"dice": 0.9}, data="cars", thumbnail=True)
    (tmp_path / "run" / "pictures").mkdir()
    (tmp_path / "run" / "pictures" / "thumbnail.jpg").write_bytes(picture)
    path = tmp_path / "run" / "model" / "README.md"
    path.write_text(path.read_text().replace("---\n", "---\nlicense: mit\n", 1) + "\nMy own words.\n")
    script(PUSH_RUN, str(tmp_path / "run"), env=environment(hub.endpoint, tmp_path, HF_TOKEN="hf_of_user"))
    plain, shown = (hub.files(f"user/{name}") for name in ("plain", "shown"))
    assert plain.keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert shown["thumbnail.jpg"] == picture
    for name, files in (("plain", plain), ("shown", shown)):
        card = ModelCard(files["README.md"].decode())
        assert card.data.license == "mit"
        assert [(each.dataset_name, each.metric_value) for each in card.data.eval_results] == [("cars", 0.9)]
        assert f'carvana.Segmenter.from_pretrained("user/{name}")' in card.text
        assert "My own words." in card.text
        assert "../pictures" not in card.text
        assert ("](thumbnail.jpg)" in card.text) == (name == "shown")
        address = f"{hub.endpoint}/user/shown/resolve/main/thumbnail.jpg"
        assert card.data.to_dict().get("thumbnail") == (address if name == "shown" else None)


def test_a_model_read_from_the_hub_has_the_bits_and_the_spec_of_the_pushed_one(story: Story):
    for (spec, tensors), model in zip(story.online, reversed(story.models), strict=True):
        assert spec == model.spec.to_json()
        assert same(tensors, model)


def test_a_private_repository_is_private_and_opens_with_its_owners_token(story: Story):
    assert story.hub.repositories["user/secret"].private
    assert not story.hub.repositories["user/repo"].private
    assert same(story.secret[1], story.models[1])


def test_only_the_configuration_and_the_weights_are_fetched(story: Story):
    fetched = {line.rpartition("/")[2] for line in story.hub.requests if line.startswith("GET") and "resolve" in line}
    assert fetched == {"config.json"}
    assert sum(line.startswith("GET /objects/") for line in story.hub.requests) == 3


def test_the_cache_that_the_client_wrote_is_whole_in_its_own_eyes(story: Story):
    found = scan_cache_dir(story.home / "hub")
    assert not found.warnings
    repositories = {repository.repo_id: repository for repository in found.repos}
    assert repositories.keys() == {"user/repo", "user/secret"}
    revisions = dict(repositories["user/repo"].refs)
    commits = {name: revision.commit_hash for name, revision in revisions.items()}
    assert commits == story.hub.repositories["user/repo"].refs
    for name, revision in revisions.items():
        files = story.hub.files("user/repo", name)
        assert {file.file_name for file in revision.files} == {"config.json", "model.safetensors"}
        for file in revision.files:
            data = files[file.file_name]
            large = file.file_name.endswith(".safetensors")
            assert file.blob_path.name == (
                hub_server.sha256(data) if large else hub_server.git_oid(file.file_name, data)
            )
            assert file.file_path.read_bytes() == data


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_cached_model_is_the_same_without_a_hub(story: Story, tmp_path: Path, offline: str):
    commit = story.hub.repositories["user/repo"].refs["v1"]
    wanted = (("user/repo", None), ("user/repo", "v1"), ("user/repo", commit))
    env = story.env | {"HF_HUB_OFFLINE": offline}
    found = read(*wanted, out=tmp_path, env=env)
    for (spec, tensors), model in zip(found, (story.models[1], story.models[0], story.models[0]), strict=True):
        assert spec == model.spec.to_json()
        assert same(tensors, model)


def test_what_is_not_cached_is_one_clear_line_without_a_hub(story: Story, tmp_path: Path):
    wanted = (("user/other", None), ("user/repo", "v2"))
    missing, revision = refusals(*wanted, env=story.env | {"HF_HUB_OFFLINE": "1"})
    assert "'user/other'" in missing
    assert "it is not in the cache, and HF_HUB_OFFLINE is set" in missing
    assert "revision 'v2' is not in the cache" in revision
    missing, revision = refusals(*wanted, env=story.env)
    assert "it is not in the cache, and asking the hub failed" in missing
    assert "revision 'v2' is not in the cache" in revision


def test_what_the_command_pushes_is_compared_by_its_name(
    story: Story, hub: hub_server.Hub, tiny_data: Path, tmp_path: Path
):
    env = environment(hub.endpoint, tmp_path / "home", HF_TOKEN="hf_of_user")
    for number, name in ((1, "user/one"), (2, "user/two")):
        story.models[number - 1].save_pretrained(tmp_path / f"model{number}")
        pushed = python("-m", "carvana", "push", str(tmp_path / f"model{number}"), name, env=env)
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.startswith(f"{hub.endpoint}/{name}/commit/")
    words = ["compare", "user/one", "other=user/two", "--data", tiny_data, "--out", tmp_path / "board"]
    done = python("-m", "carvana", *map(str, words), "--device", "cpu", "--json", "-", env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(row["name"] for row in found["rows"]) == ["other", "user/one"]
    assert all(row["status"] == "ok" and row["size"] == [64, 96] for row in found["rows"])
    assert found["header"]["photos"] == len(find_samples(tiny_data))  # all: no training is known
    assert done.stderr.count("its training images are not known") == 2
    gone = python("-m", "carvana", "compare", "user/three", "--data", str(tiny_data), env=env)
    assert gone.returncode == 1
    assert gone.stderr.startswith("error: ")
    assert "user/three" in gone.stderr
    assert len(gone.stderr.splitlines()) == 1


def test_what_a_hub_refuses_is_one_clear_line(story: Story, hub: hub_server.Hub, tmp_path: Path):
    hub.put("user/open", story.hub.files("user/repo"))
    hub.put("user/secret", story.hub.files("user/secret"), private=True)
    wanted = (("user/none", None), ("user/secret", None), ("user/open", "v9"))
    for token in ("", "hf_of_other"):
        env = environment(hub.endpoint, tmp_path / f"home of {token}", **({"HF_TOKEN": token} if token else {}))
        none, secret, revision = refusals(*wanted, env=env)
        assert "'user/none'" in none
        assert "it is not there, or it is private: if it is yours to read, log in" in none
        assert "HF_TOKEN" in none
        assert secret == none.replace("user/none", "user/secret")  # a hub does not tell one from the other
        assert "there is no revision 'v9' of it" in revision
    env = environment(hub.endpoint, tmp_path / "home of nobody", HF_TOKEN="hf_of_nobody")
    [refused] = refusals(("user/open", None), env=env)
    assert "401" in refused
    assert "Invalid credentials" in refused
    assert "HF_TOKEN" in refused


def test_what_is_no_model_of_this_library_is_one_clear_line(story: Story, hub: hub_server.Hub, tmp_path: Path):
    files = story.hub.files("user/repo")
    weights = files["model.safetensors"]
    tensors = load(weights)
    first = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    not_finite = save(tensors | {first: torch.full_like(tensors[first], torch.nan)})
    foreign = json.dumps({"architectures": ["ResNet"], "model_type": "resnet"}).encode()
    # A pickle that would leave a file if anything read it.
    trap = tmp_path / "trap"
    pickled = f"cbuiltins\nopen\n(V{trap}\nVw\ntR.".encode()
    cases = {
        "foreign": ({**files, "config.json": foreign}, "was not written by carvana: 'arch' is missing"),
        "broken": ({**files, "config.json": b"{"}, "is not JSON"),
        "newer": ({**files, "config.json": b'{"arch": "unet-ref", "format_version": 99}'}, "upgrade carvana"),
        "plugin": ({**files, "config.json": b'{"arch": "hers", "package": "her-nets"}'}, "pip install her-nets"),
        "cut": ({**files, "model.safetensors": weights[:-4]}, "is not a readable safetensors file"),
        "header": ({**files, "model.safetensors": weights[:100]}, "is not a readable safetensors file"),
        "other": ({**files, "model.safetensors": save({first: tensors[first]})}, "tensors are missing"),
        "nan": ({**files, "model.safetensors": not_finite}, "holds values that are not finite"),
        "pickled": (
            {"config.json": files["config.json"], "pytorch_model.bin": pickled},
            "holds no model of carvana: model.safetensors is missing",
        ),
        "disguised": ({**files, "model.safetensors": pickled}, "is not a readable safetensors file"),
        "bare": ({"model.safetensors": weights}, "holds no model of carvana: config.json is missing"),
        "empty": ({"README.md": b"soon"}, "holds no model of carvana: config.json is missing"),
    }
    for name, (content, _) in cases.items():
        hub.put(f"user/{name}", content)
    errors = refusals(*((f"user/{name}", None) for name in cases), env=environment(hub.endpoint, tmp_path / "home"))
    for (name, (_, expected)), error in zip(cases.items(), errors, strict=True):
        assert expected in error
        assert f"user/{name}" in error or f"user--{name}" in error
    assert not trap.exists()
    assert not any("pytorch_model" in line for line in hub.requests)


@pytest.mark.parametrize(
    ("token", "name", "expected"),
    [
        (None, "user/repo", "401"),
        ("hf_of_nobody", "user/repo", "Invalid credentials"),
        ("hf_of_other", "user/repo", "403"),
        ("hf_of_user", "user/a name", "alphanumeric"),
    ],
)
def test_a_push_that_is_refused_is_one_clear_line(
    story: Story, hub: hub_server.Hub, tmp_path: Path, token: str | None, name: str, expected: str
):
    story.models[0].save_pretrained(tmp_path / "model")
    env = environment(hub.endpoint, tmp_path / "home", **({} if token is None else {"HF_TOKEN": token}))
    [line] = script(PUSH_ONLY, str(tmp_path / "model"), name, env=env)
    error = json.loads(line)["error"]
    assert f"'{name}' could not be pushed to the hub" in error
    assert expected in error
    assert "\n" not in error
    if name == "user/repo":
        assert "HF_TOKEN" in error
    assert not hub.repositories


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_push_without_a_hub_is_one_clear_line(story: Story, tmp_path: Path, offline: str):
    story.models[0].save_pretrained(tmp_path / "model")
    env = story.env | {"HF_TOKEN": "hf_of_user", "HF_HUB_OFFLINE": offline}
    [line] = script(PUSH_ONLY, str(tmp_path / "model"), "user/repo", env=env)
    error = json.loads(line)["error"]
    assert "'user/repo' could not be pushed to the hub" in error
    assert ("HF_HUB_OFFLINE" in error) == (offline == "1")
    assert "\n" not in error


def test_the_predictor_and_the_command_line_take_a_repository(story: Story, tmp_path: Path):
    photo = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    story.models[1].save_pretrained(tmp_path / "model")
    env = story.env | {"HF_HUB_OFFLINE": "1"}
    masks = []
    for name in ("user/repo", str(tmp_path / "model")):
        out = tmp_path / f"masks{len(masks)}"
        done = python("-m", "carvana", "predict", name, str(tmp_path / "photo.png"), "--out", str(out), env=env)
        assert done.returncode == 0, done.stderr
        masks.append(cv2.imread(str(next(out.glob("*.png"))), cv2.IMREAD_UNCHANGED))
    assert masks[0].shape == (48, 70)
    assert np.array_equal(masks[0], masks[1])
    script(PREDICT, "user/repo", str(tmp_path / "photo.png"), str(tmp_path / "raw"), env=env)
    raw = np.fromfile(tmp_path / "raw", dtype=np.uint8).reshape(48, 70)
    assert np.array_equal(raw > 0, masks[0] > 0)


def test_the_command_line_tells_in_one_line_what_is_neither_folder_nor_repository(story: Story, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((32, 32, 3), np.uint8))
    env = story.env | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    arguments = ("predict", "user/other", str(tmp_path / "photo.png"), "--out", str(tmp_path / "masks"))
    done = python("-m", "carvana", *arguments, env=env)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "it is not in the cache, and HF_HUB_OFFLINE is set" in " ".join(done.stderr.split())
