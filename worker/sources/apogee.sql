-- The enrolments of academic years in APOGÉE, for Oracle and PostgreSQL. Nothing personal but the student number.
-- All joins are outer ones and none multiplies rows: whoever has no number, no label or no component is still counted.
-- TEM_IAE_PRM is not asked for: a second étape counts as the first one does.
SELECT iae.cod_anu,
       iae.cod_ind,
       ind.cod_etu,
       iae.cod_etp,
       iae.cod_vrs_vet,
       iae.num_occ_iae,
       iae.eta_iae,
       iae.eta_pmt_iae,
       -- of several spaces, or empty, in copies of the tables: what Oracle has as null
       CASE WHEN LENGTH(TRIM(vet.lib_web_vet)) > 0 THEN vet.lib_web_vet ELSE etp.lib_etp END AS lib_etape,
       iae.cod_cmp,
       cmp.lib_cmp
FROM ins_adm_etp iae
LEFT JOIN individu ind ON ind.cod_ind = iae.cod_ind
LEFT JOIN etape etp ON etp.cod_etp = iae.cod_etp
LEFT JOIN version_etape vet ON vet.cod_etp = iae.cod_etp AND vet.cod_vrs_vet = iae.cod_vrs_vet
LEFT JOIN composante cmp ON cmp.cod_cmp = iae.cod_cmp
WHERE iae.cod_anu IN (:years)
