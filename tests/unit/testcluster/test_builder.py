"""What a build is told of this machine, and which versions of images are kept."""

from testcluster import builder


def test_a_build_gets_the_package_index_but_no_path_of_this_machine() -> None:
    shown = (
        ":env:.cert='/etc/ssl/own.pem'\n:env:.default-timeout='180'\n:env:.find-links='/opt/wheels'\n"
        "global.index-url='https://user:secret@packages.example/simple'\ninstall.trusted-host='packages.example'\n"
    )
    written = builder.pip_config(shown)
    assert "index-url = https://user:secret@packages.example/simple" in written
    assert "trusted-host = packages.example" in written
    assert "timeout = 180" in written
    assert "/opt/wheels" not in written
    assert "/etc/ssl/own.pem" not in written


def test_the_newest_versions_of_each_image_are_kept() -> None:
    names = ["server:1", "server:2", "trainer:1", "server:3"]
    assert builder.newest(names, 2) == {"server:2", "server:3", "trainer:1"}
