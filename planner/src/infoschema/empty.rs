//! Tables of `pg_catalog` about what Quorate does not have: their columns, and never a row.

use super::Relation;
use crate::types::PgType::{self, Bool, Bytea, Float4, Int2, Int4, Name, Oid, Text, TimestampTz};

type Columns = &'static [(&'static str, PgType)];

const TABLES: &[(&str, Columns)] = &[
    (
        "pg_policy",
        &[
            ("oid", Oid),
            ("polname", Name),
            ("polrelid", Oid),
            ("polcmd", Text),
            ("polpermissive", Bool),
            ("polroles", Text),
            ("polqual", Text),
            ("polwithcheck", Text),
        ],
    ),
    (
        "pg_statistic_ext",
        &[
            ("oid", Oid),
            ("stxrelid", Oid),
            ("stxname", Name),
            ("stxnamespace", Oid),
            ("stxowner", Oid),
            ("stxstattarget", Int4),
            ("stxkeys", Text),
            ("stxkind", Text),
        ],
    ),
    (
        "pg_publication",
        &[
            ("oid", Oid),
            ("pubname", Name),
            ("pubowner", Oid),
            ("puballtables", Bool),
            ("pubinsert", Bool),
            ("pubupdate", Bool),
            ("pubdelete", Bool),
            ("pubtruncate", Bool),
            ("pubviaroot", Bool),
        ],
    ),
    ("pg_publication_namespace", &[("oid", Oid), ("pnpubid", Oid), ("pnnspid", Oid)]),
    (
        "pg_publication_rel",
        &[("oid", Oid), ("prpubid", Oid), ("prrelid", Oid), ("prqual", Text), ("prattrs", Text)],
    ),
    (
        "pg_inherits",
        &[("inhrelid", Oid), ("inhparent", Oid), ("inhseqno", Int4), ("inhdetachpending", Bool)],
    ),
    (
        "pg_trigger",
        &[
            ("oid", Oid),
            ("tgrelid", Oid),
            ("tgparentid", Oid),
            ("tgname", Name),
            ("tgfoid", Oid),
            ("tgtype", Int2),
            ("tgenabled", Text),
            ("tgisinternal", Bool),
            ("tgconstraint", Oid),
        ],
    ),
    ("pg_rewrite", &[("oid", Oid), ("rulename", Name), ("ev_class", Oid), ("ev_type", Text)]),
    (
        "pg_auth_members",
        &[("roleid", Oid), ("member", Oid), ("grantor", Oid), ("admin_option", Bool)],
    ),
    (
        "pg_description",
        &[("objoid", Oid), ("classoid", Oid), ("objsubid", Int4), ("description", Text)],
    ),
    (
        "pg_enum",
        &[("oid", Oid), ("enumtypid", Oid), ("enumsortorder", Float4), ("enumlabel", Name)],
    ),
    (
        "pg_range",
        &[("rngtypid", Oid), ("rngsubtype", Oid), ("rngmultitypid", Oid), ("rngcollation", Oid)],
    ),
    ("pg_sequence", &[("seqrelid", Oid), ("seqtypid", Oid), ("seqcycle", Bool)]),
    (
        "pg_views",
        &[("schemaname", Name), ("viewname", Name), ("viewowner", Name), ("definition", Text)],
    ),
    ("pg_foreign_table", &[("ftrelid", Oid), ("ftserver", Oid)]),
    (
        "pg_extension",
        &[("oid", Oid), ("extname", Name), ("extnamespace", Oid), ("extversion", Text)],
    ),
    ("pg_largeobject", &[("loid", Oid), ("pageno", Int4), ("data", Bytea)]),
    (
        "pg_prepared_xacts",
        &[("gid", Text), ("prepared", TimestampTz), ("owner", Name), ("database", Name)],
    ),
];

/// Whether a table of `pg_catalog` never has a row.
pub fn is_empty(name: &str) -> bool {
    TABLES.iter().any(|(known, _)| *known == name)
}

pub(super) fn relation(name: &str) -> Option<Relation> {
    let (_, columns) = TABLES.iter().find(|(known, _)| *known == name)?;
    Some(Relation::new(columns))
}
