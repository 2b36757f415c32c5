"""`lightning-sq reproduce mnist | cifar10`: train every row, attack it, and hold the paper's claims against it."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_sq.commands.parser import Parser, check_at_least_one
from lightning_sq.cores import usable_cores
from lightning_sq.errors import InputError
from lightning_sq.output_lock import lock_output

if TYPE_CHECKING:
    from lightning_sq.reproduction.settings import Form, Settings
    from lightning_sq.reproduction.studies import Study


def _parser() -> Parser:
    parser = Parser(
        "lightning-sq reproduce",
        description="Train every row of a study, attack each by the same worst case, and write one page. Says first "
        "how long it will take; stopped and started again, it goes on where it was.",
        examples=[
            "lightning-sq reproduce mnist --quick",
            "lightning-sq reproduce cifar10 --small --rows natural,method,pgd --plan",
        ],
    )
    parser.add_argument("study", choices=("mnist", "cifar10"))
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--quick", action="store_true", help="few images, short schedules, one seed: minutes")
    forms.add_argument(
        "--small", action="store_true", help="a small network under every row of CIFAR-10: hours on CPUs"
    )
    parser.add_argument("--data-dir", type=Path, help="where the data set's own files are; default: download them")
    parser.add_argument("--data", type=Path, help="image folder, made if missing; default: data/STUDY")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/reproduce/STUDY, -quick, -small")
    parser.add_argument(
        "--output", type=Path, help="folder of the page; default: results/STUDY or -small, or --runs if quick"
    )
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="default: configs, of the clone")
    parser.add_argument("--rows", help="with commas; default: all, quick: those that are soon trained")
    parser.add_argument("--num-seeds", type=int, help="most seeds of each row; default: as the study says")
    parser.add_argument("--num-images", type=int, help="test images to attack, at least; default: 1000, quick: 100")
    parser.add_argument("--attacks", help="as of evaluate; default: standard, quick: quick")
    parser.add_argument(
        "--max-epochs", type=int, help="into which longer schedules are pressed; default: as the recipes say"
    )
    parser.add_argument(
        "--no-tuning",
        action="store_true",
        help="take each row's learning rate from its recipe; else several, as many for each, are tried on held-out "
        "training images (never in the quick form)",
    )
    parser.add_argument(
        "--no-shorter",
        action="store_true",
        help="leave the shorter schedules out, by which the time to the same worst case is told (the quick form has "
        "none)",
    )
    parser.add_argument(
        "--choose",
        action="store_true",
        help="instead of the rows, try each noise, level count and sharpness of the method on held-out training images",
    )
    parser.add_argument("--jobs", type=int, help="rows at a time; default: a CPU core each, or one on a GPU")
    parser.add_argument("--num-threads", type=int, help="CPU threads of each row; default: the cores over --jobs")
    parser.add_argument("--plan", action="store_true", help="say how long it will take, and stop; downloads nothing")
    parser.add_argument("--page", action="store_true", help="write the page anew from what has been run, and stop")
    parser.add_argument(
        "--add",
        action="store_true",
        help="add to the page at --output: what it says by the same recipes, of at least --num-images, is kept and "
        "not run again, but where a run is at hand and attacks or checks have been made stronger since; seconds of "
        "training stay those of the page where a training comes out the same",
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help="with --add, for rows of that page: train them again for the clock, side by side and in one go, and "
        "attack none; where a training gives the accuracies of the page after every epoch, it takes its seconds",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="do the chosen rows again; stopped, it goes on without this option"
    )
    return parser


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    check_at_least_one(options, "num_seeds", "num_images", "max_epochs", "jobs", "num_threads")
    settings = _settings(options)
    from lightning_sq.evaluation.suites import attacks_by_name
    from lightning_sq.reproduction.conduct import NothingMeasuredError, refuse_untimed

    if "pgd" not in attacks_by_name(settings.attacks):
        raise InputError(
            f"--attacks {settings.attacks} lacks pgd, by which the paper judged. Give --attacks pgd,{settings.attacks}."
        )
    settings.planned({})  # refuses a folder without the recipes
    if not options.page:
        settings = _with_data(options, settings)
    if options.add:
        settings = _with_earlier(options, settings)
        if settings.times:
            refuse_untimed(settings)
    elif not options.plan:
        _refuse_loss(options, settings)
    if not options.page:
        (_choose if options.choose else _run)(options, settings)
    if options.plan:
        return
    try:
        _write_page(options, settings)
    except NothingMeasuredError:
        if not options.choose:
            raise
        print("No row has been trained and attacked here: what was chosen is kept for the page of those that will be.")


def _settings(options: Namespace) -> Settings:
    """The defaults that hang on the form filled in. Raises: InputError for rows that there are not."""
    import torch

    from lightning_sq.reproduction.settings import SHARES, USUAL, Settings
    from lightning_sq.reproduction.studies import STUDIES

    study, form = STUDIES[options.study], "quick" if options.quick else "small" if options.small else "full"
    if options.small and not (options.configs / study.name / "small.yaml").is_file():
        raise InputError(f"The rows of {study.name} have no smaller network than their recipes say. Leave --small out.")
    known = tuple(row.name for row in study.rows)
    usual = tuple(row.name for row in study.rows if row.in_quick or not options.quick)
    asked = usual if options.rows is None else map(str.strip, options.rows.split(","))
    rows = tuple(dict.fromkeys(filter(None, asked)))
    if unknown := [name for name in rows if name not in known]:
        raise InputError(f"{study.name} has no row {unknown[0]!r}. Choose from: {', '.join(known)}.")
    if not rows:
        raise InputError(f"--rows {options.rows!r} names none. Choose from: {', '.join(known)}.")
    cores = usable_cores()
    jobs = options.jobs or (1 if torch.cuda.is_available() else cores)
    data = options.data or Path("data") / study.name
    if options.time and (options.choose or options.page or not options.add):
        raise InputError("--time goes with --add, and with neither --choose nor --page. Write --add --time.")
    if options.quick and options.choose:
        raise InputError("The quick form has no --choose: what is chosen holds for both. Leave one of them out.")
    tunes = options.choose or not (options.quick or options.no_tuning)
    return Settings(
        study=study,
        rows=rows,
        form=form,
        num_seeds=options.num_seeds,
        max_epochs=options.max_epochs,
        configs=options.configs,
        data=data,
        tuning_data=data.with_name(f"{data.name}-tuning") if tunes else None,
        runs=options.runs or Path("runs/reproduce") / _name(study, form),
        attacks=options.attacks or USUAL[form]["attacks"],
        num_images=options.num_images or USUAL[form]["num_images"],
        jobs=jobs,
        num_threads=options.num_threads or max(1, cores // jobs),
        shares=() if options.quick or options.no_shorter else SHARES,
        times=options.time,
    )


def _output(options: Namespace, settings: Settings) -> Path:
    usual = settings.runs if settings.quick else Path("results") / _name(settings.study, settings.form)
    return options.output or usual


def _name(study: Study, form: Form) -> str:
    """Of the folders of a form, so that none takes another's place."""
    return study.name if form == "full" else f"{study.name}-{form}"


def _with_earlier(options: Namespace, settings: Settings) -> Settings:
    """With what the page says, but for what this command does again."""
    from dataclasses import replace

    from lightning_sq.reproduction.conduct import refuse_changed
    from lightning_sq.reproduction.earlier import Earlier
    from lightning_sq.reproduction.page import read_study
    from lightning_sq.reproduction.trials import rates_to_try

    earlier = Earlier.of(read_study(_output(options, settings)), settings.conditions())
    if options.overwrite and not (options.page or options.time):
        again = settings.planned({}), rates_to_try(settings)
        earlier = replace(earlier, choice=[]) if options.choose else earlier.without(*again)
    settings = replace(settings, earlier=earlier)
    refuse_changed(settings)
    return settings


def _refuse_loss(options: Namespace, settings: Settings) -> None:
    """Raises: InputError if the page says what the new one would not; one beside its runs can be made of them again."""
    from lightning_sq.reproduction.conduct import refuse_loss
    from lightning_sq.reproduction.page import read_study

    output = _output(options, settings)
    if output == settings.runs:
        return
    try:
        content = read_study(output)
    except InputError:
        return  # there is none, or none that this version can keep
    refuse_loss(settings, content, measures=not (options.page or options.choose), chooses=options.choose)


def _with_data(options: Namespace, settings: Settings) -> Settings:
    """With the data made, if need be; a plan downloads none, and is then for as many images as were published."""
    if not options.plan or options.data_dir is not None:
        _make_data(options.data_dir, settings)
    elif not settings.data.is_dir():
        from dataclasses import replace

        train, val = settings.study.num_images
        images = f"{train:,} training and {val:,} test images"
        print(f"{settings.data} is not there and not downloaded: planned for {images}")
        return replace(settings, assumed=(train, val))
    return settings


def _make_data(data_dir: Path | None, settings: Settings) -> None:
    from lightning_sq.commands.data import main as data

    source = [] if data_dir is None else ["--from", str(data_dir)]
    data([settings.study.name, str(settings.data), "--keep", *source])
    if settings.tuning_data is not None and not settings.times:
        data([settings.study.name, str(settings.tuning_data), "--tuning", "--keep", *source])


def _run(options: Namespace, settings: Settings) -> None:
    from lightning_sq.progress import progress_bar
    from lightning_sq.reproduction.conduct import are_timed, conduct, timed_otherwise
    from lightning_sq.reproduction.plan import estimates, plan_in_words

    with progress_bar("timing a few steps of each row", "rows") as advance:
        known = estimates(settings, advance)
    print(plan_in_words(settings, known, anew=options.overwrite), flush=True)
    if options.plan:
        return
    if settings.times and not options.overwrite and are_timed(settings):
        print(f"All of these were trained in {settings.runs} before: the page takes the seconds of then.")
        print("To train them again, add --overwrite.")
    conduct(settings, known, anew=options.overwrite)
    if settings.times and (others := timed_otherwise(settings)):
        print(
            f"Came out otherwise than the page says, which keeps their seconds: {'; '.join(others)}. "
            "To replace them by these, attack them: the same command with --overwrite and without --time."
        )


def _choose(options: Namespace, settings: Settings) -> None:
    from lightning_sq.evaluation.tables import percent
    from lightning_sq.progress import progress_bar
    from lightning_sq.reproduction.conduct import choose
    from lightning_sq.reproduction.plan import choice_in_words, seconds_of_variants
    from lightning_sq.reproduction.trials import tried_variants

    with progress_bar("timing a few steps of each variant", "variants") as advance:
        seconds = seconds_of_variants(settings, advance)
    print(choice_in_words(settings, seconds, anew=options.overwrite), flush=True)
    if options.plan:
        return
    choose(settings, seconds, anew=options.overwrite)
    for entry in tried_variants(settings):
        print(f"{percent(entry['accuracy']):>8}  {entry['title']}")


def _write_page(options: Namespace, settings: Settings) -> None:
    """Hours later another command may have written rows of its own: they are kept, or not replaced unasked."""
    from lightning_sq.reproduction import page
    from lightning_sq.reproduction.conduct import collect

    output = _output(options, settings)
    collect(settings)  # proves what is to be proven, which takes long, and is remembered
    with ExitStack() as held:
        lock_output(output, held)
        if options.add:
            settings = _with_earlier(options, settings)
        else:
            _refuse_loss(options, settings)
        content = collect(settings)
        page.write_page(output, content)
    for line in page.printed(content):
        print(line)
    print(output / page.PAGE_FILE)
