import os

import pytest

from xaikit.parallel import run_each


def test_every_job_runs_in_some_process(tmp_path) -> None:
    jobs = [{"path": tmp_path / f"job-{index}"} for index in range(5)]
    run_each(os.mkdir, jobs, "making folders")
    assert all(job["path"].is_dir() for job in jobs)


def test_a_failing_job_is_not_passed_over(tmp_path) -> None:
    with pytest.raises(FileExistsError, match=tmp_path.name):
        run_each(os.mkdir, [{"path": tmp_path}, {"path": tmp_path / "another"}], "making folders")
