"""Each Moodle: does it answer, what is there, what waits."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from tools.dashboards.panels import GREEN, ORANGE, RED, P, dashboard, graph, number


def page() -> Dashboard:
    """Build the page."""
    return (
        dashboard(
            "etape-cohorts-platforms", "Cohortes — Plateformes", "Each Moodle: does it answer, what is there, what waits.", since="now-24h",
        )
        .with_panel(
            number(
                "État",
                "How the platform last answered. Nothing is lost while it doesn't; a refusal needs a person.",
                f"max by (platform) (cohorts_platform_up{{{P}}}) + 2 * max by (platform) (cohorts_platform_denied{{{P}}})",
                legend="{{platform}}",
                words={0: ("Ne répond pas", ORANGE), 1: ("Répond", GREEN), 2: ("Refuse", RED)},
                width=8,
            )
        )
        .with_panel(
            number(
                "Dernier succès",
                "How long ago a round of calls last succeeded; a platform without work isn't called.",
                f"time() - max by (platform) (cohorts_last_success_timestamp_seconds{{{P}}})",
                legend="{{platform}}", unit="s", none="Pas encore", width=8,
            )
        )
        .with_panel(
            number(
                "Appartenances attendues",
                "Desired memberships.",
                f"max by (platform) (cohorts_memberships{{{P}}})",
                legend="{{platform}}", width=8,
            )
        )
        .with_panel(
            graph(
                "Cohortes",
                "Cohorts that the rules lead to: wanted (not made yet), owned, foreign (it exists and isn't ours), "
                "colliding (Moodle's database takes its idnumber for another's).",
                {f"max by (platform, state) (cohorts_cohorts{{{P}}})": "{{platform}} {{state}}"},
            )
        )
        .with_panel(
            graph(
                "Cohortes supprimées sur Moodle",
                "Cohorts of ours that somebody deleted, with the synchronisation of every course that used them, until "
                "`cohorts acknowledge`.",
                {f"max by (platform) (cohorts_deleted_cohorts{{{P}}})": "{{platform}}"},
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Cohortes en attente d'une personne",
                "Cohorts with students that can't be created, aren't ours, or can't get their new idnumber.",
                {f"max by (platform, why) (cohorts_blocked_cohorts{{{P}}})": "{{platform}} {{why}}"},
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "En attente, par raison",
                "Parked and retrying memberships by reason. Those without an account end when it is created.",
                {f"max by (platform, reason) (cohorts_gap_reasons{{{P}}}) > 0": "{{platform}} {{reason}}"},
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "En attente d'un compte",
                "Memberships parked because there is no account, and the same a day before.",
                {
                    f"platform:cohorts_parked_for_account:sum{{{P}}}": "{{platform}}",
                    f"platform:cohorts_parked_for_account:sum{{{P}}} offset 1d": "{{platform}} la veille",
                },
            )
        )
        .with_panel(
            graph(
                "Appels",
                "Calls per second by outcome: ok, or the error code.",
                {
                    f"sum by (platform, outcome) (rate(cohorts_moodle_calls_total{{{P}}}[$__rate_interval]))": (
                        "{{platform}} {{outcome}}"
                    )
                },
                unit="cps", stacked=True,
            )
        )
        .with_panel(
            graph(
                "Durée des appels",
                "Time that calls take, 95th percentile by function. Course synchronisation makes additions slow.",
                {
                    f"histogram_quantile(0.95, sum by (platform, function, le) (rate(cohorts_moodle_call_seconds_bucket{{{P}}}[$__rate_interval])))": (
                        "{{platform}} {{function}}"
                    )
                },
                unit="s", width=24,
            )
        )
    )  # fmt: skip
