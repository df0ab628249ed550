"""The cluster of CLUSTER=kind: two workers in Docker, from kind-config.yaml."""

import os
import shutil
import subprocess

from testcluster import images
from testcluster.console import Error, Step, say
from testcluster.controlplane import kubectl
from testcluster.files import replace_text
from testcluster.paths import BUILD, KUBECONFIG, REPOSITORY
from testcluster.storage import provide_volume

NAME = "driftloop"
_SHARED = BUILD / "shared"  # kind-config.yaml mounts it into the workers


def usable() -> bool:
    """Whether kind is installed and a Docker engine answers."""
    if not (shutil.which("kind") and shutil.which("docker")):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def up() -> None:
    """Create the cluster if it doesn't exist, and wait for its nodes."""
    if not usable():
        raise Error("CLUSTER=kind needs a running Docker engine and kind: go install sigs.k8s.io/kind@latest")
    _SHARED.mkdir(parents=True, exist_ok=True)
    if NAME not in _run("kind", "get", "clusters").split():
        with Step("create the kind cluster"):
            _run("kind", "create", "cluster", "--config", "kind-config.yaml", "--wait", "180s")
    replace_text(KUBECONFIG, _run("kind", "get", "kubeconfig", "--name", NAME))
    kubectl(KUBECONFIG, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s", seconds=150)
    add_volume("driftloop-shared")
    say(f"kubeconfig: export KUBECONFIG={KUBECONFIG}")


def down() -> None:
    """Delete the cluster."""
    with Step("delete the kind cluster"):
        _run("kind", "delete", "cluster", "--name", NAME)
    KUBECONFIG.unlink(missing_ok=True)


def provide_images(names: list[str]) -> dict[str, str]:
    """Build the images `names` if they changed, and load them into the nodes. Returns their references by name."""
    arguments = images.build_arguments(dict(os.environ))
    images.prepare(names)
    given = {name: images.arguments_of(name, arguments) for name in images.in_order(names)}
    references = {name: images.reference(name, given[name]) for name in given}
    for name, image in references.items():
        if not _run("docker", "images", "--quiet", image):
            with Step(f"build {image}"):
                flags = [f"--build-arg={key}={value}" for key, value in given[name].items()]
                context = str(images.context(name))
                _run("docker", "build", *flags, "--file", images.DOCKERFILES[name], "--tag", image, context)
        with Step(f"load {image}"):  # kind skips nodes that already have it
            _run("kind", "load", "docker-image", "--name", NAME, image)
    return references


def add_volume(name: str) -> None:
    """Add a ReadWriteMany PersistentVolume `name` with its own folder."""
    provide_volume(name, _SHARED)


def fail_node(name: str) -> None:
    """Freeze the node: it looks lost, but keeps its address."""
    _run("docker", "pause", name)


def heal_node(name: str) -> None:
    """Let the node continue."""
    _run("docker", "unpause", name)


def status() -> str:
    """The nodes as the API server reports them."""
    return kubectl(KUBECONFIG, "get", "nodes", "-o", "wide")


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Error(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip()
