"""``timm-landmark push``: uploads an exported model to the Hugging Face Hub."""

import argparse
import hashlib
from pathlib import Path

from timm_landmark.data.check import SUMS, read_sums
from timm_landmark.hub.check import HUB_FILES, check_model
from timm_landmark.hub.config import ModelConfig, read_config
from timm_landmark.hub.exported import PREFIX
from timm_landmark.hub.model_card import with_repository
from timm_landmark.hub.space.folder import APP, SPACE, staged_space
from timm_landmark.utils.errors import UserError
from timm_landmark.utils.hub_errors import explain, split_revision
from timm_landmark.utils.hub_files import CARD, CONFIG, WEIGHTS
from timm_landmark.utils.parser import Parser
from timm_landmark.utils.text import printable, say

NO_TOKEN = (
    "no token for the Hub: create a token with write access at https://huggingface.co/settings/tokens, then run "
    "`hf auth login` or set HF_TOKEN"
)


def main(argv: list[str]) -> int:
    """Runs the verb; returns 0, or 1 if ``check`` finds damage.

    Raises:
        UserError: If the repository name is invalid, the token is missing, or the Hub rejects the upload.
    """
    options = _parser().parse_args(argv)
    if not options.folder.is_dir():
        raise UserError(f"FOLDER {options.folder}: no such folder; create one with `timm-landmark export`")
    if not (options.folder / CONFIG).is_file():
        raise UserError(f"{options.folder} is not an exported model; create one with `timm-landmark export`")
    check_name(options.repository)
    if options.space is not None:
        check_name(options.space, "--space")
        if options.private:
            raise UserError(
                "--private: a private Space cannot download its own wheel while it is built; omit --private, or upload "
                f"{SPACE}/ with a wheel that the Space can reach"
            )
    if problems := check_model(str(options.folder)):
        for problem in problems:
            say(problem)
        say(f"{options.folder}: not pushed because it is damaged; export it again")
        return 1
    if options.space is not None:
        return _push_space(options)
    contents = staged(options.folder, options.repository)
    _print_plan(contents, options)
    if options.dry_run:
        from huggingface_hub import get_token

        say("dry run: nothing was uploaded" + ("" if get_token() else f"; {NO_TOKEN}"))
        print_usage(read_config(options.folder), options.repository, "COMMIT")
        return 0
    commit = upload(contents, options.repository, options.private, options.revision)
    print_usage(read_config(options.folder), options.repository, commit)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="timm-landmark push",
        description="Checks an exported model, lists the files to upload, and uploads them to the Hub in one commit.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="exported folder (export --output)")
    parser.add_argument("repository", metavar="ORG/NAME", help="repository; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create it as private; fail if it exists and is public")
    parser.add_argument("--revision", help="branch; created if it does not exist (default: main)")
    parser.add_argument(
        "--space",
        metavar="ORG/SPACE",
        help="instead of the model, upload FOLDER/space/ (export --space) to this Space, which loads ORG/NAME",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")
    return parser


def check_name(repository: str, argument: str = "ORG/NAME") -> None:
    """Checks that the name of a repository is valid on the Hub; ``argument`` is how the user gave it.

    Raises:
        UserError: If it is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        if repository.count("/") != 1:
            raise HFValidationError
    except HFValidationError:
        raise UserError(
            f"{argument} {printable(repository, 100)!r}: must be your user or organization, a slash and a name of "
            "letters, digits, '.', '_' and '-'"
        ) from None


def staged(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """Returns the files to upload: the folder's, with the repository's name in the card and new checksums.

    The files of a Space are not part of the model.

    Raises:
        UserError: If sha256sums.txt or config.json is missing or damaged.
    """
    sums = {file: digest for file, digest in read_sums(folder).items() if not file.startswith(f"{SPACE}/")}
    card = (folder / CARD).read_text(encoding="utf-8")
    card = with_repository(card, read_config(folder).name, repository).encode()
    sums[CARD] = hashlib.sha256(card).hexdigest()
    lines = "".join(f"{sums[file]}  {file}\n" for file in sorted(sums))
    return {**{file: folder / file for file in sums}, CARD: card, SUMS: lines.encode()}


def _push_space(options: argparse.Namespace) -> int:
    """Uploads FOLDER/space/ to a Space that loads the model of the given repository; returns 0."""
    from huggingface_hub import constants, get_token

    model = f"{options.repository}@{options.revision}" if options.revision else options.repository
    address = f"{constants.ENDPOINT}/spaces/{options.space}"
    contents = staged_space(options.folder, model, options.space, constants.ENDPOINT)
    say(f"{options.folder / SPACE} -> {address}, which loads {PREFIX}{model}; a new Space will be public")
    _print_files(contents)
    if options.dry_run:
        say("dry run: nothing was uploaded" + ("" if get_token() else f"; {NO_TOKEN}"))
        return 0
    upload_space(contents, model, options.space)
    say(f"{address} is built now, which takes some minutes; its page shows the progress")
    return 0


def _print_plan(contents: dict[str, Path | bytes], options: argparse.Namespace) -> None:
    from huggingface_hub import constants

    place = f"{constants.ENDPOINT}/{options.repository}"
    access = "private repositories only" if options.private else "a new repository will be public"
    say(f"{options.folder} -> {place}, branch {options.revision or 'main'}; {access}")
    _print_files(contents)


def _print_files(contents: dict[str, Path | bytes]) -> None:
    for name in sorted(contents):
        content = contents[name]
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        say(f"  {size:>12,} bytes  {name}")


def upload(contents: dict[str, Path | bytes], repository: str, private: bool, revision: str | None) -> str:
    """Creates the repository and branch if needed and uploads all files in one commit; returns the commit.

    Raises:
        UserError: If there is no token, the repository is public although ``private`` is set, or the Hub rejects the
            upload.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError(NO_TOKEN)
    api = HfApi(library_name="timm-landmark")
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:  # it already existed
            raise UserError(
                f"--private: {repository} is public; make it private in its settings on the Hub, choose another name "
                "or omit --private"
            )
        if revision not in (None, "main"):
            api.create_branch(repository, branch=revision, exist_ok=True)
        others = set(api.list_repo_files(repository, revision=revision)) - set(contents) - HUB_FILES
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in sorted(contents.items())],
            commit_message="Weights, configuration and model card by timm-landmark",
            revision=revision,
        )
    except UserError:
        raise
    except Exception as error:
        if (reason := explain(error, repository, WEIGHTS, upload=True)) is None:
            raise
        raise UserError(reason) from None
    for name in sorted(others):
        say(f"left unchanged, not part of the export: {name}")
    return commit.oid


def upload_space(contents: dict[str, Path | bytes], model: str, space: str) -> None:
    """Creates the Space if needed and uploads its files in one commit, after the model was found on the Hub.

    Raises:
        UserError: If there is no token, the model is not on the Hub, or the Hub rejects the upload.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError(NO_TOKEN)
    api, (name, revision) = HfApi(library_name="timm-landmark"), split_revision(model)
    try:
        private = api.model_info(name, revision=revision).private
    except Exception as error:
        if (reason := explain(error, model, WEIGHTS)) is None:
            raise
        raise UserError(f"{reason} (the Space loads this model: push it first, without --space)") from None
    try:
        api.create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
        others = set(api.list_repo_files(space, repo_type="space")) - set(contents) - HUB_FILES
        api.create_commit(
            space,
            [CommitOperationAdd(name, content) for name, content in sorted(contents.items())],
            commit_message="Page for a landmark model by timm-landmark",
            repo_type="space",
        )
    except Exception as error:
        if (reason := explain(error, space, APP, upload=True)) is None:
            raise
        raise UserError(reason) from None
    for name in sorted(others):
        say(f"left unchanged, not part of the export: {name}")
    if private:
        say(f"{model} is private: add a token that can read it to the Space's settings, as the secret HF_TOKEN")


def print_usage(config: ModelConfig, repository: str, commit: str) -> None:
    """Prints the entry for ``default_cfgs`` and the ``create_model`` call, both pinned to the commit."""
    cfg = config.pretrained
    values = {
        "hf_hub_id": f"{repository}@{commit}",
        "hf_hub_filename": WEIGHTS,
        "num_classes": config.num_classes,
        **{key: config.transform[key] for key in ("input_size", "mean", "std", "crop_pct", "interpolation")},
        **{key: cfg.get(key) for key in ("first_conv", "classifier", "license")},
    }
    arguments = ", ".join(f"{key}={value!r}" for key, value in values.items())
    say("for default_cfgs:")
    say(f'    "{config.name}": _cfg({arguments}),')
    say("for users:")
    say(f'    timm.create_model("hf-hub:{repository}@{commit}", pretrained=True)')
