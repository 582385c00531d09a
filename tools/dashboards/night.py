"""Reconciliations, drift, the guard, held removals."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from tools.dashboards.panels import (
    DAYS,
    ENDED,
    GREEN,
    HOURS,
    NONE_IS_FINE,
    ORANGE,
    RED,
    SUCCEEDED,
    P,
    dashboard,
    graph,
    number,
    row,
)


def page() -> Dashboard:
    """Build the page."""
    return (
        dashboard("etape-cohorts-night", "Cohortes — Nuit", "Reconciliations, drift, the guard, held removals.", since="now-7d")
        .with_row(row("Réconciliations"))
        .with_panel(
            number(
                "Dernière, par issue",
                "How long ago the last reconciliation with each outcome ended.",
                f"time() - max by (state) ({ENDED})",
                legend="{{state}}", unit="s", none="Aucune", width=10,
            )
        )
        .with_panel(
            number(
                "Durée",
                "How long the last one with each outcome took.",
                'max by (state) (cohorts_reconciliation_duration_seconds{state=~"done|partial"})',
                legend="{{state}}", unit="s", none="Aucune",
            )
        )
        .with_panel(
            number(
                "Extractions refusées",
                "Snapshots that the last reconciliation refused: `cohorts snapshot show` says why.",
                "max(cohorts_snapshot_refusals)",
                steps=NONE_IS_FINE,
            )
        )
        .with_panel(
            number(
                "Âge de l'extraction",
                "How long ago the last accepted snapshot was taken.",
                "time() - max(cohorts_snapshot_taken_timestamp_seconds)",
                unit="s", none="Aucune", steps=((None, GREEN), (30 * HOURS, ORANGE), (3 * DAYS, RED)), width=6,
            )
        )
        .with_panel(
            graph(
                "Inscriptions dans l'extraction",
                "Enrolments in the last accepted snapshot, by academic year.",
                {"max by (year) (cohorts_snapshot_rows)": "{{year}}"},
            )
        )
        .with_panel(
            graph(
                "Âge de la dernière réconciliation",
                "It grows to a day and drops; beyond 25 hours, a night was missed.",
                {f"time() - {SUCCEEDED}": "âge"},
                unit="s", steps=((None, GREEN), (25 * HOURS, RED)),
            )
        )
        .with_row(row("Résultats de la dernière réconciliation"))
        .with_panel(
            number(
                "Lue jusqu'au bout",
                "Whether the last reconciliation read the platform to its end.",
                f"min by (platform) (cohorts_reconciliation_read{{{P}}})",
                legend="{{platform}}", words={0: ("Non", RED), 1: ("Oui", GREEN)}, width=8,
            )
        )
        .with_panel(
            number(
                "Âge de la dernière lecture complète",
                "How long ago the last reading of the platform to its end began.",
                f"time() - max by (platform) (cohorts_platform_read_timestamp_seconds{{{P}}})",
                legend="{{platform}}", unit="s", none="Aucune", steps=((None, GREEN), (25 * HOURS, RED)), width=8,
            )
        )
        .with_panel(
            number(
                "Changements non faits",
                "Changes that could have been on the platform at the end of the last reconciliation, and weren't.",
                f"max by (platform) (cohorts_reconciliation_left{{{P}}})",
                legend="{{platform}}", steps=NONE_IS_FINE, width=8,
            )
        )
        .with_panel(
            number(
                "Cohortes non gérées modifiées",
                "Cohorts that aren't ours and changed during the run: others changed them, as the journal proves.",
                f"max by (platform) (cohorts_reconciliation_foreign_changes{{{P}}})",
                legend="{{platform}}", steps=NONE_IS_FINE, width=8,
            )
        )
        .with_panel(
            number(
                "Membres non rattachés",
                "Members of our cohorts who can't be matched to a student; reported, and kept unless the settings say otherwise.",
                f"max by (platform) (cohorts_reconciliation_strangers{{{P}}})",
                legend="{{platform}}", width=8,
            )
        )
        .with_panel(
            graph(
                "Écarts constatés",
                "Differences that no message announced, by kind: missing, extra, deleted accounts, renamed, vanished.",
                {f"max by (platform, kind) (cohorts_reconciliation_drift{{{P}}})": "{{platform}} {{kind}}"},
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Changements effectués",
                "Memberships that the last reconciliation added and removed.",
                {f"max by (platform, action) (cohorts_reconciliation_changes{{{P}}})": "{{platform}} {{action}}"},
            )
        )
        .with_panel(
            graph(
                "Cohortes et membres lus",
                "Cohorts of ours and of others, and members of ours, that it found.",
                {
                    f"max by (platform, kind) (cohorts_reconciliation_cohorts{{{P}}})": "{{platform}} cohortes {{kind}}",
                    f"max by (platform) (cohorts_reconciliation_members{{{P}}})": "{{platform}} membres",
                },
                width=24,
            )
        )
        .with_row(row("Garde-fou"))
        .with_panel(
            number(
                "Garde-fou",
                "Whether anything is guarded.",
                f"min by (platform) (cohorts_guard_enabled{{{P}}})",
                legend="{{platform}}", words={0: ("Désactivé", RED), 1: ("Actif", GREEN)}, width=4,
            )
        )
        .with_panel(
            number(
                "Cohortes retenues",
                "New cohorts and renames that wait for a person: `cohorts held`.",
                f"max by (platform, change) (cohorts_held_cohorts{{{P}}})",
                legend="{{platform}} {{change}}", steps=NONE_IS_FINE, width=5,
            )
        )
        .with_panel(
            number(
                "Retraits retenus",
                "Removals that wait for a person: `cohorts held`, then `cohorts approve` or `cohorts reject`.",
                f'max by (platform) (cohorts_gaps{{state="held", {P}}})',
                legend="{{platform}}", steps=NONE_IS_FINE, width=5,
            )
        )
        .with_panel(
            number(
                "Plus ancien retrait retenu",
                "Age of the oldest change whose removal is held.",
                f"platform:cohorts_oldest_held_age_seconds:max{{{P}}}",
                legend="{{platform}}", unit="s", none="Aucun", steps=((None, GREEN), (DAYS, ORANGE)), width=5,
            )
        )
        .with_panel(
            number(
                "Cohorte la plus touchée",
                "Largest share of one cohort that would be removed, as of the end of the last reconciliation.",
                f"max by (platform) (cohorts_guard_worst_cohort_ratio{{{P}}})",
                legend="{{platform}}", unit="percentunit", width=5,
            )
        )
        .with_panel(
            graph(
                "Retraits et limite",
                "Removals of the last 24 hours (removed) and 30 days, to come (pending) and held, and the platform's limits.",
                {
                    f"max by (platform, state) (cohorts_guard_removals{{{P}}})": "{{platform}} {{state}}",
                    f"max by (platform, limit) (cohorts_guard_held_removals{{{P}}}) > 0": "{{platform}} held by {{limit}}",
                    f"max by (platform) (cohorts_guard_limit_removals{{{P}}})": "{{platform}} limite",
                    f"max by (platform) (cohorts_guard_month_limit_removals{{{P}}})": "{{platform}} limite (30 jours)",
                },
                width=24,
            )
        )
    )  # fmt: skip
