"""Every foreseeable error has a stable code, an exit code and a line in docs/runbook.md; this is the table of them.

Errors are named here, not imported: a command that fails must not first load every library that could have failed.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from evolve.cli import ExitCode
from memory.types import Record

RUNBOOK = "docs/runbook.md"


class Code(Record):
    """What an error is to whoever is woken by it. Names never change their meaning and are never used again."""

    name: str = Field(pattern=r"^EM(-[A-Z]+)+$")
    exit: int = Field(description="exit code of the command it ends")
    means: str = Field(description="what is the matter, in one sentence")
    do: str = Field(description="what to do first, in one sentence")
    errors: tuple[str, ...] = Field(default=(), description="exception classes by module and name; subclasses too")

    @property
    def anchor(self) -> str:
        """Where the runbook says more."""
        return f"{RUNBOOK}#{self.name.lower()}"


def _code(name: str, exit_code: int, means: str, do: str, *errors: str) -> Code:
    return Code(name=name, exit=exit_code, means=means, do=do, errors=errors)


CODES: tuple[Code, ...] = (
    _code(
        "EM-USAGE", ExitCode.BAD_CONFIG,
        "The command line is wrong: an unknown command or option, or a value that does not fit.",
        "Read the usage line above the message, or run the command with --help.",
    ),
    _code(
        "EM-CONFIG", ExitCode.BAD_CONFIG,
        "A configuration, a protocol or a setting on the command line cannot be run.",
        "Correct the key that the message names; `evomesh config validate FILE` checks it without running anything.",
        "evolve.config.ConfigError",
    ),
    _code(
        "EM-BUDGET-SMALL", ExitCode.BAD_CONFIG,
        "The budget of a run does not even allow its first generation and the audit after it; nothing was spent.",
        "See with `evomesh estimate CONFIG` what is expected; raise the limit that is named, or plan a smaller run.",
        "evolve.planning.spending.BudgetTooSmall",
    ),
    _code(
        "EM-PROBLEMS", ExitCode.BAD_CONFIG,
        "The problems of a run cannot be drawn, or their verifier accepts what it must not.",
        "Correct the file or the verifier that the message names; nothing has been spent.",
        "evolve.problems.types.ProblemsError",
        "evolve.judging.runner.IsolationError",
    ),
    _code(
        "EM-TASKS", ExitCode.BAD_CONFIG,
        "The file of tasks as a whole cannot be read; single bad lines never cause this.",
        "Give a .jsonl or .parquet file with a `question` on every line or in a column.",
        "serving.batch_tasks.TaskFileError",
        "serving.row_files.RowFileError",
    ),
    _code(
        "EM-LABELS",
        ExitCode.BAD_CONFIG,
        "A file of labels as a whole cannot be read; single bad rows never cause this.",
        "Give CSV, JSONL or Parquet with the key column of --key, and `answer` or `correct`.",
        "evolve.judging.labels.LabelError",
    ),
    _code(
        "EM-REVIEW", ExitCode.BAD_CONFIG,
        "A question for a person cannot be answered like this: unknown, answered before, or changed meanwhile.",
        "List the open questions with `evomesh review list DIR` and answer the one you see there.",
        "mesh.reviews.ReviewError",
    ),
    _code(
        "EM-KEYS", ExitCode.BAD_CONFIG,
        "The file of keys cannot be read, there is no such key, or a name or quota is not allowed.",
        "List the keys with `evomesh keys list`; restore keys.json from a backup if it is damaged.",
        "serving.endpoint.keys.KeysError",
    ),
    _code(
        "EM-CHANNEL", ExitCode.BAD_CONFIG,
        "A channel is not there, or is frozen, or has nothing to go back to.",
        "`evomesh channels` shows every channel, its history, and who froze it.",
        "serving.channels.ChannelError",
    ),
    _code(
        "EM-SCHEMA", ExitCode.BAD_CONFIG,
        "The form that answers should have is no JSON schema, pattern or choice that can be held.",
        "Check the file of --schema; it must stand alone, without references to other files.",
        "serving.shaping.SchemaError", "serving.structure.StructureError",
    ),
    _code(
        "EM-LOCKED", ExitCode.LOCKED,
        "Another process works in this directory.",
        "Wait for the process whose number the message gives, or stop it; a lock never outlives its holder.",
        "memory.ledger.AlreadyLocked",
    ),
    _code(
        "EM-FILE-MISSING", ExitCode.MISSING,
        "A file or directory that the command needs is not there.",
        "Check the path in the message; relative paths start at the current directory.",
        "builtins.FileNotFoundError", "builtins.NotADirectoryError",
    ),
    _code(
        "EM-MODEL-MISSING", ExitCode.MISSING,
        "The weights of a model are not prepared on this machine.",
        "Run `python -m serving.models prepare` with the same configuration, on every node.",
        "serving.models.ModelMissing",
    ),
    _code(
        "EM-MODEL-CORRUPT", ExitCode.MISSING,
        "A prepared model has a file whose bytes are not those that were prepared.",
        "Remove the model's directory from the model store and prepare it again; check the disk.",
        "serving.models.ModelCorrupt",
    ),
    _code(
        "EM-MODEL", ExitCode.MISSING,
        "A model cannot be prepared: not downloaded, not converted, or no room for it.",
        "Follow the message; preparing is the only step that opens the network.",
        "serving.weights.ModelError",
    ),
    _code(
        "EM-EMBEDDER", ExitCode.MISSING,
        "The embedder of the memory is not there, or died.",
        "Prepare its model, or set memory.embedder to the one that the memory was built with.",
        "memory.embed.EmbedderError",
    ),
    _code(
        "EM-ADAPTER-MISSING", ExitCode.MISSING,
        "An adapter that a seat needs is not in the adapter store.",
        "Copy its directory there, or give the run or the shared store that holds it; roll the channel back meanwhile.",
        "serving.adapters.AdapterMissing",
    ),
    _code(
        "EM-ADAPTER-CORRUPT", ExitCode.FAILED,
        "An admitted adapter no longer has the content that its name promises.",
        "Remove its directory and admit or fetch it again; do not use what is there.",
        "serving.adapters.AdapterCorrupt",
    ),
    _code(
        "EM-ADAPTER-REFUSED", ExitCode.FAILED,
        "An adapter was not admitted: files, shapes, values or settings that no engine should see.",
        "Read every reason in the message; train it again for this base, or leave it out.",
        "serving.adapters.AdapterRefused", "serving.safetensors_header.HeaderError",
    ),
    _code(
        "EM-ADAPTER-STORE", ExitCode.FAILED,
        "The shared store of adapters cannot be reached, or refuses.",
        "Check serving.adapter_store, its mount or URL, and its credentials in the environment of this node.",
        "serving.adapter_share.ShareError",
    ),
    _code(
        "EM-CANARY", ExitCode.FAILED,
        "A seat does not answer the fixed canary prompts as it must, so it was not taken into use.",
        "The roster before stays in force; look at the seat that the message names, or roll the channel back.",
        "serving.canary.CanaryError",
    ),
    _code(
        "EM-FLEET",
        ExitCode.FAILED,
        "A fleet cannot be started, found or reached, or has other engines than this configuration.",
        "`evomesh fleet show` tells what is up; `evomesh doctor --config FILE` tells what would fit.",
        "serving.fleet_record.FleetError",
    ),
    _code(
        "EM-ENGINE-DIED", ExitCode.FAILED,
        "An engine's process is gone, or answers what no engine may answer.",
        "It is started again by itself; if it dies again, look at its log and at the memory of its node.",
        "serving.hosting.EngineDied",
    ),
    _code(
        "EM-ENGINE-GONE", ExitCode.FAILED,
        "An engine stopped answering in the middle of a stage; nothing that it failed to answer was accepted.",
        "See to the engine that the message names, then give the same command again: it goes on with what is missing.",
        "evolve.outage.EngineGone",
    ),
    _code(
        "EM-ENGINE-BUSY", ExitCode.FAILED,
        "Every replica of an engine has as many requests as it takes in, or its node is short of memory.",
        "Wait and try again; for good: more replicas, lower concurrency, or a higher serving.fleet.max_pending.",
        "serving.hosting.EngineBusy",
    ),
    _code(
        "EM-REMOTE", ExitCode.FAILED,
        "A remote server refused a request or did not understand it.",
        "Check base_url, model and the key's environment variable of that engine; try the server with curl.",
        "serving.remote_client.RequestRefused",
    ),
    _code(
        "EM-ENGINE", ExitCode.FAILED,
        "An engine could not answer a request, or did not start in time.",
        "`evomesh status` shows which engine; what was finished is kept, and the same command goes on.",
        "mesh.engine.EngineError",
    ),
    _code(
        "EM-CALL-TIMEOUT", ExitCode.FAILED,
        "A member gave no answer within its time.",
        "Look for a hung or overloaded engine with `evomesh status`; raise call_timeout_s if answers are just long.",
        "builtins.TimeoutError",
    ),
    _code(
        "EM-BUDGET", ExitCode.OK,
        "A budget of tokens, calls, seconds or money left something undone; the trace says what.",
        "Raise the budget that the trace names, or accept the cheaper answer; it needs a review.",
    ),
    _code(
        "EM-RENDER", ExitCode.FAILED,
        "A chat template does not take these messages.",
        "Use another template or model directory; the message names the turns that it refuses.",
        "serving.templates.RenderError",
    ),
    _code(
        "EM-PLUGIN", ExitCode.FAILED,
        "The vLLM that is installed is not the one that the CPU plugin was written for.",
        "Install the locked set again with `make setup`; without the plugin mixed LoRA results are wrong on a CPU.",
        "serving.vllm_plugin.PluginMismatch",
    ),
    _code(
        "EM-BATCH", ExitCode.FAILED,
        "A batch cannot start or go on; what is finished stays finished.",
        "Do what the message says, then give the same command again.",
        "serving.batch_types.BatchError",
    ),
    _code(
        "EM-EXPORT",
        ExitCode.BAD_CONFIG,
        "Traces cannot be written as a dataset of that kind.",
        "Do what the message says; the traces themselves are unharmed.",
        "serving.export_formats.ExportError",
    ),
    _code(
        "EM-TRACE", ExitCode.FAILED,
        "A file of traces is missing, torn, or was not written by this program.",
        "Restore it from a backup; the batch or run that wrote it can write it again.",
        "serving.traces.TraceError",
    ),
    _code(
        "EM-REPLAY", ExitCode.FAILED,
        "A deliberation cannot be replayed: not found, or held under settings that are not known here.",
        "Give the directory it was kept in and the configuration of that day.",
        "evolve.commands.replaying.ReplayError",
    ),
    _code(
        "EM-JOURNAL", ExitCode.FAILED,
        "What the journal of a run accepted is not what lies on the disk.",
        "Restore the file that the message names; never edit inside a run directory.",
        "evolve.journal.JournalError",
        "evolve.problems.sealed.SealError",
        "evolve.judging.judge.NotHeard",
    ),
    _code(
        "EM-LEDGER", ExitCode.FAILED,
        "A hash-chained file is damaged, has two writers, or could not be written.",
        "Restore it from a copy, and keep the damaged one as evidence; free disk space if the disk is full.",
        "memory.ledger.LedgerError",
    ),
    _code(
        "EM-LINEAGE", ExitCode.FAILED,
        "The generations of a run contradict each other.",
        "Restore generations.jsonl from a backup; do not promote from this run.",
        "evolve.lineage.LineageError",
    ),
    _code(
        "EM-MEMORY-VERSION", ExitCode.FAILED,
        "A memory was written by another version of this program.",
        "Use the version that the message names, or export there and import here.",
        "memory.database.SchemaMismatch",
    ),
    _code(
        "EM-MEMORY", ExitCode.FAILED,
        "The memory could not store or answer something.",
        "`evomesh memory doctor DIR` says what is damaged and what to do; `memory rebuild` derives everything anew.",
        "memory.database.StoreError", "memory.recall.DamagedText",
    ),
    _code(
        "EM-APPROVAL", ExitCode.BAD_CONFIG,
        "A proposal to seat a specialist cannot be decided like this: unknown, ambiguous, or not the one looked at.",
        "Look at the ids in the message, and give one of them with `evomesh approve RUN ID` or `evomesh veto RUN ID`.",
        "evolve.governance.approvals.ApprovalError",
    ),
    _code(
        "EM-WAITING", ExitCode.WAITING,
        "What passed a gate may not be seated before somebody agrees, or before a veto window has passed.",
        "Look at it with `evomesh lineage RUN`, say `evomesh approve RUN` or `evomesh veto RUN`, start the run again.",
        "evolve.governance.promote.PromotionWaits",
    ),
    _code(
        "EM-TRAINING", ExitCode.FAILED,
        "A specialist could not be trained: no worker, no device, or a loss that is not finite.",
        "Free the device that the message names, or lower the learning rate; the same command goes on from there.",
        "evolve.training.workers.WorkersError", "evolve.training.trainers.LossNotFinite",
        "evolve.training.checkpoint.CheckpointDamaged", "evolve.training.lora_files.AdapterUnfit",
    ),
    _code(
        "EM-JUDGE", ExitCode.FAILED,
        "The process that judges answers died or did not start.",
        "Give the same command again; if it comes back, see which task it judged in the message.",
        "evolve.judging.child.ScorerError", "mesh.symbolic.SymbolicError",
    ),
    _code(
        "EM-DISK-FULL", ExitCode.FAILED,
        "There is no room on a disk, or a quota is used up; nothing half-written was published.",
        "Free room where the message says, then give the same command again: it goes on.",
    ),
    _code(
        "EM-PERMISSION", ExitCode.FAILED,
        "The process may not read or write a file.",
        "Give the directory to the user that runs evomesh (uid 10001 in the container).",
        "builtins.PermissionError",
    ),
    _code(
        "EM-PORT", ExitCode.FAILED,
        "The address to listen on is taken, or is not of this machine.",
        "Stop the other process, or choose another one with --port or endpoint.port.",
    ),
    _code(
        "EM-OPEN-FILES", ExitCode.FAILED,
        "The process has as many files and connections open as it may.",
        "Raise the limit (`ulimit -n 65536`, LimitNOFILE, or the container's) and start again.",
    ),
    _code(
        "EM-CONNECTION", ExitCode.FAILED,
        "A connection was refused or broke: nothing listens there, or the network is down.",
        "Check that the address in the message answers from this machine.",
        "builtins.ConnectionError",
    ),
    _code(
        "EM-OUT-OF-MEMORY", ExitCode.FAILED,
        "The machine or the container has no memory left.",
        "Lower concurrency, kv_cache_gib or the number of engines on this node; `evomesh doctor` shows the limit.",
        "builtins.MemoryError",
    ),
    _code(
        "EM-SYSTEM", ExitCode.FAILED,
        "The operating system refused something.",
        "The message holds its own words; check the disk and the mounts that it names.",
        "builtins.OSError",
    ),
    _code(
        "EM-INTERRUPTED", 130,
        "The command was interrupted; what it had accepted is kept.",
        "Give the same command again: it goes on.",
        "builtins.KeyboardInterrupt",
    ),
    _code(
        "EM-DEFECT", ExitCode.FAILED,
        "Something happened that nobody foresaw: a defect of this program.",
        "Keep the traceback, make a support archive with `evomesh bundle`, and report both.",
    ),
)  # fmt: skip

_BY_NAME: Mapping[str, Code] = {code.name: code for code in CODES}
DEFECT, USAGE = _BY_NAME["EM-DEFECT"], _BY_NAME["EM-USAGE"]

_BY_ERROR: Mapping[str, Code] = {error: code for code in CODES for error in code.errors}
_BY_KIND: Mapping[str, Code] = {error.rpartition(".")[2]: code for error, code in _BY_ERROR.items()} | {
    "BudgetExhausted": _BY_NAME["EM-BUDGET"]
}
_BY_ERRNO = {
    errno.ENOSPC: "EM-DISK-FULL",
    errno.EDQUOT: "EM-DISK-FULL",
    errno.EADDRINUSE: "EM-PORT",
    errno.EADDRNOTAVAIL: "EM-PORT",
    errno.EMFILE: "EM-OPEN-FILES",
    errno.ENFILE: "EM-OPEN-FILES",
    errno.ENOMEM: "EM-OUT-OF-MEMORY",
    errno.EROFS: "EM-PERMISSION",
}


def code_of(error: BaseException) -> Code | None:
    """The code of an error by its nearest class in the table; None: nobody foresaw it, it is a defect."""
    for kind in type(error).__mro__:
        found = _BY_ERROR.get(f"{kind.__module__}.{kind.__qualname__}")
        if found is not None:
            return _of_system(error) or found
    return None


def code_named(name: str) -> Code | None:
    """The code of this name, in any case; None: there is none."""
    return _BY_NAME.get(name.upper())


def code_of_kind(kind: str) -> Code | None:
    """The code of an error that a trace keeps by the name of its class (`Failure.kind`); None: unknown."""
    return _BY_KIND.get(kind)


def as_data(code: Code, message: str) -> dict[str, Any]:
    """An error under --json: `{"error": {...}}`."""
    about = {"code": code.name, "exit": code.exit, "message": message, "do": code.do, "runbook": code.anchor}
    return {"error": about}


def _of_system(error: BaseException) -> Code | None:
    """What the number of a system error says more exactly than its class; also of one that another error wraps."""
    causes = (error, error.__cause__)
    found = next((one for one in causes if isinstance(one, OSError) and one.errno in _BY_ERRNO), None)
    return None if found is None or found.errno is None else _BY_NAME[_BY_ERRNO[found.errno]]
