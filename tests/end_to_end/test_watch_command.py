"""A directory's changes become members of cohorts, by real processes: slapd, `cohorts watch`, Kafka, `cohorts run`."""

from random import Random

import pytest

from tests.support.installation import UAI, YEAR, Install, Installation, eventually, platform
from tests.support.servers.slapd import PASSWORD, READER, Slapd
from tests.support.supann import entry
from worker.sandbox.moodle.server import SandboxMoodle

pytestmark = pytest.mark.end_to_end

STUDENTS = [f"2260{rank:04}" for rank in range(60)]


def composite(etape: str) -> str:
    return f"[etab={{UAI}}{UAI}][anneeinsc={YEAR}][etape={etape}_101]"


def dn(number: str, base: str) -> str:
    return f"dn: uid=e{number},{base}"


def test_what_changes_in_a_directory_reaches_the_cohorts_though_the_watch_is_killed_again_and_again(
    install: Install, moodle: SandboxMoodle, slapd: Slapd
) -> None:
    base, gone = slapd.branch(entry(number, composite("L1DROI")) for number in STUDENTS), slapd.branch()
    directory = {
        "kind": "ldap", "base": base, "uri": f"ldap://127.0.0.1:{slapd.ports['ldap']}", "ca_file": str(slapd.ca),
        "bind_dn": READER, "password": PASSWORD, "watch_seconds": 1.0,
    }  # fmt: skip
    installation: Installation = install(
        {"ecampus": platform(moodle, guard={"enabled": False})}, sources={"ldap": directory}
    )
    moodle.add_users((f"e{number}", "") for number in STUDENTS)
    truth = dict.fromkeys(STUDENTS, "L1DROI")

    def in_step() -> bool:
        members = {(cohort, user) for cohort, users in moodle.memberships().items() for user in users}
        return members == {(etape, f"e{number}") for number, etape in truth.items()}

    worker, watch, random = installation.worker(), installation.watch("ldap"), Random(7)
    eventually(in_step)
    assert watch.get("livez").status_code == 200
    for turn in range(6):
        moving, leaving = random.sample(sorted(truth), 2)
        truth[moving] = f"L{turn}INFO"
        slapd.change(
            f"{dn(moving, base)}\nchangetype: modify\nreplace: supannEtuInscription\n"
            f"supannEtuInscription: {composite(truth[moving])}\n"
        )
        del truth[leaving]
        if turn % 2:
            slapd.change(f"{dn(leaving, base)}\nchangetype: delete\n")
        else:
            rdn = f"newrdn: uid=e{leaving}\ndeleteoldrdn: 0\nnewsuperior: {gone}"
            slapd.change(f"{dn(leaving, base)}\nchangetype: moddn\n{rdn}\n")
        watch.kill()
        watch = installation.watch("ldap")
        if turn % 3 == 0:
            eventually(in_step)
    eventually(in_step)
    metrics = watch.metrics()
    assert metrics["cohorts_watch_entries", "ldap"] == len(truth)
    assert installation.letters() == []
    assert watch.terminate() == 0
    assert worker.terminate() == 0
    done = installation.run("watch", "ldap", "--once")
    assert (done.returncode, done.stdout) == (
        0,
        f"{len(truth)} entries, 0 of them new or changed; published: nothing\n",
    )
    done = installation.run("watch", "apogee", "--once")
    assert done.returncode == 2
    assert "there are: ldap" in done.stderr
