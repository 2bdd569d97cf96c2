"""Results of training under the hash of what determines them: a job that any run has done is free for the next."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from evolve.training.job import ADAPTER_NAME, REPORT_NAME, TrainingJob, TrainingReport, publish_report
from memory.ledger import publish_json, read_record, sync_directory
from serving.admission import WEIGHTS_FILE
from serving.weights import sha256_of


class TrainingStore:
    """A directory with one sub-directory a finished job, named by its digest; several runs may share it.

    Only jobs that name the content of their base (`base_fingerprint`) are kept: names of models are used twice. What
    was quarantined is not kept either, since a process that died or had too little time may do better elsewhere.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def keep(self, job: TrainingJob, report: TrainingReport) -> None:
        """Take a copy of a finished job's results; nothing happens where they are here already. Raises OSError."""
        target = self._place(job)
        if target is None or report.status != "ok" or target.exists():
            return
        staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(staged, ignore_errors=True)
        try:
            shutil.copytree(job.adapter_dir, staged / ADAPTER_NAME)
            publish_json(staged / REPORT_NAME, report)
            try:
                staged.rename(target)
            except OSError:
                # Another run finished the same job meanwhile; its result is as good.
                if not target.exists():
                    raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        sync_directory(target.parent)

    def adopt(self, job: TrainingJob) -> TrainingReport | None:
        """Put the results of this job, if they are here and whole, where the job wants them; None: it must be trained.

        Raises OSError.
        """
        source = self._place(job)
        if source is None or not (source / REPORT_NAME).is_file():
            return None
        try:
            report = read_record(source / REPORT_NAME, TrainingReport)
        except ValueError:
            return None  # damaged: what the job leaves here once it is trained is no better than this run's own
        weights = source / ADAPTER_NAME / WEIGHTS_FILE
        if report.job != job.digest or not weights.is_file() or sha256_of(weights) != report.adapter_sha256:
            return None
        staged = job.adapter_dir.with_name(f".{ADAPTER_NAME}.{os.getpid()}.tmp")
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(source / ADAPTER_NAME, staged)
        shutil.rmtree(job.adapter_dir, ignore_errors=True)
        staged.rename(job.adapter_dir)
        publish_report(job, report)
        return report

    def _place(self, job: TrainingJob) -> Path | None:
        return self.root / job.digest if job.base_fingerprint else None
