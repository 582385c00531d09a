"""From Kafka to Moodle."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from tools.dashboards.panels import GREEN, NONE_IS_FINE, ORANGE, RED, P, dashboard, graph, number, row


def page() -> Dashboard:
    """Build the page."""
    return (
        dashboard("etape-cohorts-flow", "Cohortes — Flux", "From Kafka to Moodle.", since="now-6h")
        .with_row(row("Kafka → registre"))
        .with_panel(
            number(
                "Lecture arrêtée",
                "Consumption is stopped because a person must look, by reason.",
                "max by (reason) (cohorts_consumption_stopped)",
                legend="{{reason}}", words={0: ("Non", GREEN), 1: ("Oui", RED)}, none="Non",
            )
        )
        .with_panel(
            number(
                "Dernière lecture",
                "Age of each worker's heartbeat: the consuming loop runs ten times a second.",
                "time() - cohorts_last_poll_timestamp_seconds",
                legend="{{instance}}", unit="s", steps=((None, GREEN), (60, ORANGE), (300, RED)), none="Aucun processus",
                width=8,
            )
        )
        .with_panel(
            number(
                "Retard de lecture",
                "Messages published and not yet recorded, over all workers.",
                "topic:cohorts_lag_messages:sum",
                legend="{{topic}}", steps=((None, GREEN), (1000, ORANGE)), width=8,
            )
        )
        .with_panel(
            number(
                "Messages rejetés (24 h)",
                "Messages of the last 24 hours that went to the dead letters: `cohorts dead-letters list`.",
                "round(sum(increase(cohorts_dead_letters_total[24h])))",
                steps=NONE_IS_FINE,
            )
        )
        .with_panel(
            graph(
                "Messages lus",
                "Messages per second by outcome: applied, stale (an older version), tombstone, invalid.",
                {"sum by (outcome) (rate(cohorts_changes_total[$__rate_interval]))": "{{outcome}}"},
                unit="cps", stacked=True,
            )
        )
        .with_panel(
            graph(
                "Retard et tendance",
                "The lag, and how much it grows or shrinks per minute, over half an hour.",
                {
                    "topic:cohorts_lag_messages:sum": "{{topic}}",
                    "deriv(topic:cohorts_lag_messages:sum[30m]) * 60": "{{topic}} par minute",
                },
            )
        )
        .with_panel(
            graph(
                "Durée d'un enregistrement",
                "Time to record one batch of messages in the ledger, 95th percentile.",
                {
                    "histogram_quantile(0.95, sum by (le) (rate(cohorts_record_seconds_bucket[$__rate_interval])))": (
                        "95 %"
                    )
                },
                unit="s",
            )
        )
        .with_panel(
            graph(
                "Processus, par version",
                "Workers, and those that watch a directory, by the version that they run.",
                {"count by (version) (cohorts_build_info)": "{{version}}"},
            )
        )
        .with_row(row("Annuaire → Kafka"))
        .with_panel(
            graph(
                "Entrées de l'annuaire",
                "Entries in each directory that `cohorts watch` reads.",
                {"max by (source) (cohorts_watch_entries)": "{{source}}"},
            )
        )
        .with_panel(
            graph(
                "Changements de l'annuaire par heure",
                "Messages published from each directory (state, deleted, rekeyed), and reads that failed.",
                {
                    "sum by (source, kind) (increase(cohorts_watch_messages_total[1h]))": "{{source}} {{kind}}",
                    "sum by (source) (increase(cohorts_watch_failures_total[1h]))": "{{source}} lectures en échec",
                },
            )
        )
        .with_row(row("Registre → Moodle"))
        .with_panel(
            graph(
                "Écarts en cours",
                "Memberships that differ between what is desired and what Moodle shows, by what they wait for.",
                {f"max by (platform, state) (cohorts_gaps{{{P}}})": "{{platform}} {{state}}"},
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Changements appliqués par heure",
                "By how they came: message, night, decision, parked (waited for an account), approved.",
                {
                    f"sum by (action, way) (increase(cohorts_change_to_moodle_seconds_count{{{P}}}[1h]))": (
                        "{{action}} ({{way}})"
                    )
                },
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Changements en retard",
                "Announced by a message, older than 5 minutes or 24 hours, and not on Moodle although they could be.",
                {f"max by (platform, le) (cohorts_late_changes{{{P}}})": "{{platform}} > {{le}} s"},
                width=24,
            )
        )
    )  # fmt: skip
