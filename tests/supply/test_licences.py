"""Licences are told apart."""

import pytest
from licences import declared, kind_of, main


@pytest.mark.parametrize(
    ("licence", "kind"),
    [
        ("MIT", "permissive"),
        ("BSD-3-Clause AND MIT", "permissive"),
        ("Apache Software License", "permissive"),
        ("GPL-3.0-or-later", "strong copyleft"),
        ("GNU Affero General Public License v3", "strong copyleft"),
        ("AGPL-3.0", "strong copyleft"),
        ("MIT AND GPL-2.0", "strong copyleft"),
        ("MIT OR GPL-2.0", "permissive"),
        ("LGPL-2.1", "weak copyleft"),
        ("GNU Lesser General Public License v3 (LGPLv3)", "weak copyleft"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "weak copyleft"),
        ("LicenseRef-NVIDIA-Proprietary", "not free"),
        ("CC-BY-NC-4.0", "not free"),
        ("", "unknown"),
        ("see LICENSE", "unknown"),
    ],
)
def test_kinds(licence: str, kind: str) -> None:
    assert kind_of(licence) == kind


def test_nothing_that_xaikit_declares_has_a_licence_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"torch", "jupyterlab", "h5py"} <= declared() and not {"pytest", "deptry"} & declared()
    assert main() == 0, capsys.readouterr()
