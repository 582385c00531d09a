"""Is it fine? In five seconds."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from tools.dashboards.panels import (
    GREEN,
    HOURS,
    NONE_IS_FINE,
    ORANGE,
    RED,
    SUCCEEDED,
    P,
    dashboard,
    graph,
    listing,
    number,
)


def page() -> Dashboard:
    """Build the page."""
    alerts = 'ALERTS{alertname=~"Cohorts.+", alertstate="firing"'
    kept = "Share of the changes of the last 7 days, late and still open ones included, that were on Moodle within "
    return (
        dashboard("etape-cohorts-promise", "Cohortes — Promesse", "Is it fine, in five seconds.", since="now-24h")
        .with_panel(
            number(
                "Est-ce que tout va bien ?",
                "The worst alert that is firing. The list beside it says which; the runbook says what to do.",
                f'max({alerts}, severity="page"}} * 2) or max({alerts}, severity="warning"}}) or vector(0)',
                words={
                    0: ("Tout va bien", GREEN),
                    1: ("À voir aujourd'hui", ORANGE),
                    2: ("À traiter maintenant", RED),
                },
                width=6,
                height=8,
            )
        )
        .with_panel(
            listing(
                "Alertes en cours",
                "What is firing, and on which platform. The runbook has a section for each.",
                f"{alerts}}}",
                {"severity": "Gravité", "alertname": "Alerte", "platform": "Plateforme", "topic": "Topic"},
                none="Aucune",
                width=18,
            )
        )
        .with_panel(
            number(
                "En moins de 5 minutes",
                f"{kept}5 minutes. The promise is 95 %.",
                f'1 - platform_le:cohorts_changes_late:ratio7d{{le="300.0", {P}}}',
                legend="{{platform}}", unit="percentunit", steps=((None, RED), (0.95, GREEN)), none="Aucun changement",
                width=6,
            )
        )
        .with_panel(
            number(
                "En moins de 24 heures",
                f"{kept}24 hours. The promise is 99.9 %.",
                f'1 - platform_le:cohorts_changes_late:ratio7d{{le="86400.0", {P}}}',
                legend="{{platform}}", unit="percentunit", steps=((None, RED), (0.999, GREEN)),
                none="Aucun changement", width=6,
            )
        )
        .with_panel(
            number(
                "Plus ancien changement en attente",
                "Age of the oldest change that could be on Moodle and isn't. At 24 hours the promise is broken.",
                f"platform:cohorts_oldest_gap_age_seconds:max{{{P}}}",
                legend="{{platform}}", unit="s", none="Aucun",
                steps=((None, GREEN), (12 * HOURS, ORANGE), (20 * HOURS, RED)),
            )
        )
        .with_panel(
            number(
                "Dernière réconciliation",
                "How long ago the last reconciliation that was done, whole or in part, ended.",
                f"time() - {SUCCEEDED}",
                unit="s", none="Jamais", steps=((None, GREEN), (25 * HOURS, RED)),
            )
        )
        .with_panel(
            number(
                "Retraits retenus",
                "Removals that the guard holds until a person approves or rejects them: `cohorts held`.",
                f'max by (platform) (cohorts_gaps{{state="held", {P}}})',
                legend="{{platform}}", steps=NONE_IS_FINE,
            )
        )
        .with_panel(
            graph(
                "Part en retard",
                "Share of each hour's changes that were late or still are, by promise.",
                {f"platform_le:cohorts_changes_late:ratio1h{{{P}}}": "{{platform}} > {{le}} s"},
                unit="percentunit",
            )
        )
        .with_panel(
            graph(
                "Délai des changements annoncés",
                "Time from publication to Moodle, of changes announced by messages and held up by nothing.",
                {
                    f'histogram_quantile({q}, sum by (platform, le) (increase(cohorts_change_to_moodle_seconds_bucket{{way="message", {P}}}[1h])))': (
                        f"{{{{platform}}}} {name}"
                    )
                    for q, name in ((0.5, "médiane"), (0.95, "95 %"))
                },
                unit="s",
            )
        )
    )  # fmt: skip
