//! DDL statements and type names from their syntax trees.

use datafusion::sql::sqlparser::ast::{
    self, CharacterLength, ColumnOption, DataType, ExactNumberInfo, Ident, IndexColumn, ObjectName,
    ObjectType, Statement, TableConstraint, TimezoneInfo,
};

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::ddl::{DdlOp, NewColumn, NewKey};
use super::defs::DefaultExpr;
use super::options::TableOptions;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::parse::dialect::Postgres;
use crate::types::PgType;

/// An identifier as it is looked up: in lower case unless quoted.
fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The name of an object in schema `public`.
pub fn object_name(name: &ObjectName) -> SqlResult<String> {
    let mut parts = Vec::new();
    for part in &name.0 {
        parts.push(part.as_ident().map(folded).ok_or_else(|| SqlError::syntax("a name"))?);
    }
    match parts.as_slice() {
        [name] => Ok(name.clone()),
        [schema, name] | [_, schema, name] if schema == "public" => Ok(name.clone()),
        [schema, _] | [_, schema, _] => Err(SqlError::new(
            SqlState::INVALID_SCHEMA_NAME,
            format!("schema \"{schema}\" does not exist"),
        )),
        _ => Err(SqlError::syntax("improper qualified name (too many dotted names)")),
    }
}

/// A type from its syntax; `42704` for types Quorate does not know, `0A000` for known ones it
/// does not have.
pub fn pg_type(ty: &DataType) -> SqlResult<PgType> {
    let (name, modifiers): (&str, Vec<i64>) = match ty {
        DataType::Boolean | DataType::Bool => ("bool", vec![]),
        DataType::SmallInt(None) | DataType::Int2(None) => ("int2", vec![]),
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => ("int4", vec![]),
        DataType::BigInt(None) | DataType::Int8(None) => ("int8", vec![]),
        DataType::Real | DataType::Float4 => ("float4", vec![]),
        DataType::DoublePrecision | DataType::Float8 => ("float8", vec![]),
        DataType::Float(ExactNumberInfo::None) => ("float8", vec![]),
        DataType::Float(ExactNumberInfo::Precision(1..=24)) => ("float4", vec![]),
        DataType::Float(ExactNumberInfo::Precision(25..=53)) => ("float8", vec![]),
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => {
            ("numeric", exact(info))
        }
        DataType::Text => ("text", vec![]),
        DataType::Varchar(n) | DataType::CharacterVarying(n) | DataType::CharVarying(n) => {
            ("varchar", length(n)?)
        }
        DataType::Char(n) | DataType::Character(n) => ("char", length(n)?),
        DataType::Bytea => ("bytea", vec![]),
        DataType::Date => ("date", vec![]),
        DataType::Timestamp(p, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            ("timestamp", p.iter().map(|p| *p as i64).collect())
        }
        DataType::Timestamp(p, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            ("timestamptz", p.iter().map(|p| *p as i64).collect())
        }
        DataType::Uuid => ("uuid", vec![]),
        DataType::Interval { fields: None, precision: None } => ("interval", vec![]),
        DataType::Custom(name, modifiers) => return custom(name, modifiers),
        other => return Err(SqlError::unsupported(format_args!("the type {other}"))),
    };
    PgType::with_modifiers(name, &modifiers)?
        .ok_or_else(|| SqlError::internal("a type without a name"))
}

/// A type by its name in SQL.
pub fn type_named(text: &str) -> SqlResult<PgType> {
    let mut parser = Parser::new(&Postgres).try_with_sql(text)?;
    let ty = parser.parse_data_type()?;
    if parser.peek_token().token != Token::EOF {
        return Err(SqlError::syntax(format!("syntax error at or near \"{text}\"")));
    }
    pg_type(&ty)
}

fn custom(name: &ObjectName, modifiers: &[String]) -> SqlResult<PgType> {
    let last = name.0.last().and_then(|p| p.as_ident()).map(folded).unwrap_or_default();
    let undefined =
        || SqlError::new(SqlState::UNDEFINED_OBJECT, format!("type \"{last}\" does not exist"));
    let numbers: Result<Vec<i64>, _> = modifiers.iter().map(|m| m.parse()).collect();
    let found = PgType::with_modifiers(&last, &numbers.map_err(|_| undefined())?)?;
    if let Some(found) = found.filter(|ty| !matches!(ty, PgType::Unknown | PgType::Void)) {
        return Ok(found);
    }
    const KNOWN: [&str; 16] = [
        "serial",
        "bigserial",
        "smallserial",
        "serial4",
        "serial8",
        "json",
        "jsonb",
        "xml",
        "inet",
        "cidr",
        "money",
        "point",
        "time",
        "timetz",
        "tsvector",
        "regclass",
    ];
    if KNOWN.contains(&last.as_str()) {
        return Err(SqlError::unsupported(format_args!("the type {last}")));
    }
    Err(undefined())
}

fn exact(info: &ExactNumberInfo) -> Vec<i64> {
    match info {
        ExactNumberInfo::None => vec![],
        ExactNumberInfo::Precision(p) => vec![*p as i64],
        ExactNumberInfo::PrecisionAndScale(p, s) => vec![*p as i64, *s],
    }
}

fn length(length: &Option<CharacterLength>) -> SqlResult<Vec<i64>> {
    match length {
        None => Ok(vec![]),
        Some(CharacterLength::IntegerLength { length, .. }) => Ok(vec![*length as i64]),
        Some(CharacterLength::Max) => Err(SqlError::syntax("syntax error at or near \"max\"")),
    }
}

/// The DDL operation of a statement; `None` if it is no DDL of ours.
pub fn ddl_op(statement: &Statement) -> SqlResult<Option<DdlOp>> {
    Ok(Some(match statement {
        Statement::CreateTable(create) => create_table(create)?,
        Statement::CreateIndex(create) => create_index(create)?,
        Statement::Drop { object_type: ObjectType::Table, if_exists, names, .. } => {
            let names = names.iter().map(object_name).collect::<SqlResult<_>>()?;
            DdlOp::DropTable { names, if_exists: *if_exists }
        }
        Statement::Drop { object_type: ObjectType::Index, if_exists, names, .. } => {
            let names = names.iter().map(object_name).collect::<SqlResult<_>>()?;
            DdlOp::DropIndex { names, if_exists: *if_exists }
        }
        Statement::Truncate(truncate) => {
            if truncate.partitions.is_some() || truncate.on_cluster.is_some() {
                return Err(SqlError::syntax("TRUNCATE takes only tables"));
            }
            let names = truncate.table_names.iter().map(|t| object_name(&t.name));
            DdlOp::Truncate { names: names.collect::<SqlResult<_>>()? }
        }
        Statement::Drop { object_type, .. } => {
            return Err(SqlError::unsupported(format_args!("DROP {object_type}")));
        }
        _ => return Ok(None),
    }))
}

fn create_table(create: &ast::CreateTable) -> SqlResult<DdlOp> {
    let refused = [
        (create.temporary, "CREATE TEMPORARY TABLE"),
        (create.query.is_some(), "CREATE TABLE AS"),
        (create.like.is_some(), "CREATE TABLE … LIKE"),
        (create.inherits.is_some(), "INHERITS"),
        (create.partition_by.is_some() || create.partition_of.is_some(), "partitioning"),
        (create.external, "CREATE EXTERNAL TABLE"),
        (create.or_replace, "CREATE OR REPLACE TABLE"),
    ];
    if let Some((_, what)) = refused.iter().find(|(found, _)| *found) {
        return Err(SqlError::unsupported(what));
    }
    let name = object_name(&create.name)?;
    let mut columns = Vec::new();
    let mut keys = Keys { primary: None, uniques: Vec::new(), table: name.clone() };
    for column in &create.columns {
        columns.push(new_column(column, &mut keys)?);
    }
    for constraint in &create.constraints {
        match constraint {
            TableConstraint::PrimaryKey(key) => {
                keys.primary(key.name.as_ref().map(folded), plain_columns(&key.columns)?)?;
            }
            TableConstraint::Unique(key) => {
                if key.nulls_distinct == ast::NullsDistinctOption::NotDistinct {
                    return Err(SqlError::unsupported("NULLS NOT DISTINCT"));
                }
                let name = key.name.as_ref().map(folded);
                keys.uniques.push(NewKey { name, columns: plain_columns(&key.columns)? });
            }
            TableConstraint::ForeignKey(_) => return Err(SqlError::unsupported("FOREIGN KEY")),
            TableConstraint::Check(_) => return Err(SqlError::unsupported("CHECK")),
            other => return Err(SqlError::unsupported(format_args!("the constraint {other}"))),
        }
    }
    Ok(DdlOp::CreateTable {
        name,
        if_not_exists: create.if_not_exists,
        columns,
        primary_key: keys.primary,
        uniques: keys.uniques,
        options: table_options(&create.table_options)?,
    })
}

fn table_options(with: &ast::CreateTableOptions) -> SqlResult<TableOptions> {
    let mut options = TableOptions::default();
    let given = match with {
        ast::CreateTableOptions::None => return Ok(options),
        ast::CreateTableOptions::With(given) => given,
        other => return Err(SqlError::unsupported(other)),
    };
    for option in given {
        let ast::SqlOption::KeyValue { key, value } = option else {
            return Err(SqlError::unsupported(option));
        };
        let value = match value {
            ast::Expr::Value(value) => match &value.value {
                ast::Value::SingleQuotedString(text) | ast::Value::EscapedStringLiteral(text) => {
                    text.clone()
                }
                other => other.to_string(),
            },
            other => other.to_string(),
        };
        options.take(&key.value, Some(&value))?;
    }
    Ok(options)
}

struct Keys {
    table: String,
    primary: Option<NewKey>,
    uniques: Vec<NewKey>,
}

impl Keys {
    fn primary(&mut self, name: Option<String>, columns: Vec<String>) -> SqlResult<()> {
        if self.primary.is_some() {
            return Err(SqlError::new(
                SqlState::INVALID_TABLE_DEFINITION,
                format!("multiple primary keys for table \"{}\" are not allowed", self.table),
            ));
        }
        self.primary = Some(NewKey { name, columns });
        Ok(())
    }
}

fn new_column(column: &ast::ColumnDef, keys: &mut Keys) -> SqlResult<NewColumn> {
    let name = folded(&column.name);
    let mut new = NewColumn {
        ty: pg_type(&column.data_type)?,
        nullable: true,
        default: None,
        name: name.clone(),
    };
    for option in &column.options {
        let constraint = option.name.as_ref().map(folded);
        match &option.option {
            ColumnOption::Null => {}
            ColumnOption::NotNull => new.nullable = false,
            ColumnOption::Default(expr) => {
                new.default = Some(DefaultExpr { sql: expr.to_string() });
            }
            ColumnOption::PrimaryKey(_) => keys.primary(constraint, vec![name.clone()])?,
            ColumnOption::Unique(_) => {
                keys.uniques.push(NewKey { name: constraint, columns: vec![name.clone()] });
            }
            ColumnOption::ForeignKey(_) => return Err(SqlError::unsupported("REFERENCES")),
            ColumnOption::Check(_) => return Err(SqlError::unsupported("CHECK")),
            other => return Err(SqlError::unsupported(format_args!("the column option {other}"))),
        }
    }
    Ok(new)
}

fn plain_columns(columns: &[IndexColumn]) -> SqlResult<Vec<String>> {
    Ok(ordered_columns(columns)?.into_iter().map(|(name, _)| name).collect())
}

/// Columns of an index and whether `DESC`.
fn ordered_columns(columns: &[IndexColumn]) -> SqlResult<Vec<(String, bool)>> {
    let mut out = Vec::new();
    for column in columns {
        if column.operator_class.is_some() {
            return Err(SqlError::unsupported("an operator class"));
        }
        let ast::Expr::Identifier(ident) = &column.column.expr else {
            return Err(SqlError::unsupported("an index on an expression"));
        };
        out.push((folded(ident), column.column.options.asc == Some(false)));
    }
    Ok(out)
}

fn create_index(create: &ast::CreateIndex) -> SqlResult<DdlOp> {
    if create.predicate.is_some() {
        return Err(SqlError::unsupported("a partial index"));
    }
    if !create.include.is_empty() {
        return Err(SqlError::unsupported("INCLUDE"));
    }
    if create.nulls_distinct == Some(false) {
        return Err(SqlError::unsupported("NULLS NOT DISTINCT"));
    }
    if !matches!(create.using, None | Some(ast::IndexType::BTree)) {
        return Err(SqlError::unsupported("an access method other than btree"));
    }
    Ok(DdlOp::CreateIndex {
        name: create.name.as_ref().map(object_name).transpose()?,
        if_not_exists: create.if_not_exists,
        unique: create.unique,
        table: object_name(&create.table_name)?,
        columns: ordered_columns(&create.columns)?,
    })
}
