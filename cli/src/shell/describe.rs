//! `\d`, `\dt`, `\di`, `\l`: simple queries on `information_schema` and `pg_catalog`.

use super::error::ShellError;
use super::session::{Session, Success};
use super::table::{Column, Row, Table};

/// Where no user's tables live.
const SYSTEM_SCHEMAS: &str = "('pg_catalog', 'information_schema')";

/// What a name on the command line selects.
struct Pattern {
    schema: Option<String>,
    name: Option<String>,
}

impl Pattern {
    /// Reads `name`, `schema.name`, `"Name"`, with `*` and `?`.
    fn parse(text: &str) -> Self {
        let mut parts = vec![String::new()];
        let mut quoted = false;
        for c in text.chars() {
            let last = parts.len() - 1;
            match c {
                '"' => quoted = !quoted,
                '.' if !quoted && parts.len() == 1 => parts.push(String::new()),
                '*' if !quoted => parts[last].push('%'),
                '?' if !quoted => parts[last].push('_'),
                c if quoted => parts[last].push(c),
                c => parts[last].extend(c.to_lowercase()),
            }
        }
        let name = parts.pop().filter(|name| !name.is_empty());
        Self { schema: parts.pop(), name }
    }

    /// Conditions on two columns; without a schema, system schemas are left out.
    fn conditions(&self, schema_column: &str, name_column: &str) -> String {
        let mut conditions = match &self.schema {
            Some(schema) => vec![matches(schema_column, schema)],
            None => vec![format!("{schema_column} NOT IN {SYSTEM_SCHEMAS}")],
        };
        conditions.extend(self.name.as_ref().map(|name| matches(name_column, name)));
        conditions.join(" AND ")
    }

    /// The same, but a name alone is looked for in all schemas.
    fn conditions_anywhere(&self, schema_column: &str, name_column: &str) -> String {
        let schema = self.schema.as_ref().map(|schema| matches(schema_column, schema));
        let name = self.name.as_ref().map(|name| matches(name_column, name));
        let conditions: Vec<String> = schema.into_iter().chain(name).collect();
        conditions.join(" AND ")
    }
}

fn matches(column: &str, value: &str) -> String {
    let operator = if value.contains('%') { "LIKE" } else { "=" };
    format!("{column} {operator} '{}'", value.replace('\'', "''"))
}

fn columns(names: &[&str]) -> Vec<Column> {
    names.iter().map(|name| Column { name: (*name).to_owned(), numeric: false }).collect()
}

fn cell(row: &Row, index: usize) -> &str {
    row.get(index).and_then(Option::as_deref).unwrap_or("")
}

impl Session {
    /// `\l`
    pub async fn list_databases(&mut self) -> Result<Success, ShellError> {
        let sql = "SELECT datname FROM pg_catalog.pg_database ORDER BY datname";
        self.list("List of databases", &["Name"], sql, "No databases.").await
    }

    /// `\dt`
    pub async fn list_tables(&mut self, pattern: &str) -> Result<Success, ShellError> {
        let conditions = Pattern::parse(pattern).conditions("schemaname", "tablename");
        let sql = format!(
            "SELECT schemaname, tablename, 'table', tableowner FROM pg_catalog.pg_tables \
             WHERE {conditions} ORDER BY schemaname, tablename"
        );
        let names = ["Schema", "Name", "Type", "Owner"];
        self.list("List of relations", &names, &sql, &none_found(pattern)).await
    }

    /// `\di`
    pub async fn list_indexes(&mut self, pattern: &str) -> Result<Success, ShellError> {
        let conditions = Pattern::parse(pattern).conditions("schemaname", "indexname");
        let sql = format!(
            "SELECT schemaname, indexname, 'index', tablename FROM pg_catalog.pg_indexes \
             WHERE {conditions} ORDER BY schemaname, indexname"
        );
        let names = ["Schema", "Name", "Type", "Table"];
        self.list("List of relations", &names, &sql, &none_found(pattern)).await
    }

    /// `\d` without a name
    pub async fn list_relations(&mut self) -> Result<Success, ShellError> {
        let sql = format!(
            "SELECT table_schema, table_name, table_type FROM information_schema.tables \
             WHERE table_schema NOT IN {SYSTEM_SCHEMAS} ORDER BY table_schema, table_name"
        );
        let Some(mut rows) = self.rows_of(&sql).await? else {
            return Ok(Success::No);
        };
        for row in &mut rows {
            let kind = match cell(row, 2) {
                "BASE TABLE" => "table".to_owned(),
                other => other.to_lowercase(),
            };
            row[2] = Some(kind);
        }
        let names = ["Schema", "Name", "Type"];
        self.show_list("List of relations", &names, rows, &none_found("")).await
    }

    /// `\d name`
    pub async fn describe(&mut self, name: &str) -> Result<Success, ShellError> {
        let pattern = Pattern::parse(name);
        let sql = format!(
            "SELECT table_schema, table_name, column_name, data_type, \
             character_maximum_length, numeric_precision, numeric_scale, is_nullable, \
             column_default FROM information_schema.columns WHERE {} \
             ORDER BY table_schema, table_name, ordinal_position",
            pattern.conditions_anywhere("table_schema", "table_name")
        );
        let Some(rows) = self.rows_of(&sql).await? else {
            return Ok(Success::No);
        };
        if rows.is_empty() {
            self.complain(&format!("{}\n", none_found(name)))?;
            return Ok(Success::No);
        }
        for group in rows.chunk_by(|a, b| a[..2] == b[..2]) {
            let (schema, table) = (cell(&group[0], 0).to_owned(), cell(&group[0], 1).to_owned());
            self.describe_one(&schema, &table, group).await?;
        }
        Ok(Success::Yes)
    }

    async fn describe_one(
        &mut self,
        schema: &str,
        table: &str,
        rows: &[Row],
    ) -> Result<(), ShellError> {
        let sql = format!(
            "SELECT indexname, indexdef FROM pg_catalog.pg_indexes WHERE {} AND {} \
             ORDER BY indexname",
            matches("schemaname", schema),
            matches("tablename", table)
        );
        let indexes = self.rows_of(&sql).await?.unwrap_or_default();
        let shown = Table {
            title: Some(format!("Table \"{schema}.{table}\"")),
            columns: columns(&["Column", "Type", "Nullable", "Default"]),
            rows: rows.iter().map(column_row).collect(),
            footer: Some(index_footer(&indexes)),
        };
        self.print(&shown.show(self.style))
    }

    async fn list(
        &mut self,
        title: &str,
        names: &[&str],
        sql: &str,
        nothing: &str,
    ) -> Result<Success, ShellError> {
        match self.rows_of(sql).await? {
            Some(rows) => self.show_list(title, names, rows, nothing).await,
            None => Ok(Success::No),
        }
    }

    async fn show_list(
        &mut self,
        title: &str,
        names: &[&str],
        rows: Vec<Row>,
        nothing: &str,
    ) -> Result<Success, ShellError> {
        if rows.is_empty() {
            self.complain(&format!("{nothing}\n"))?;
            return Ok(Success::No);
        }
        let title = Some(title.to_owned());
        let table = Table { title, columns: columns(names), rows, footer: None };
        self.print(&table.show(self.style))?;
        Ok(Success::Yes)
    }

    /// Rows of a query of our own; `None` after printing the server's error.
    async fn rows_of(&mut self, sql: &str) -> Result<Option<Vec<Row>>, ShellError> {
        match self.collect(sql).await? {
            Ok(rows) => Ok(Some(rows)),
            Err(error) => {
                self.complain(&error.show(sql))?;
                Ok(None)
            }
        }
    }
}

fn none_found(pattern: &str) -> String {
    if pattern.is_empty() {
        "Did not find any relations.".to_owned()
    } else {
        format!("Did not find any relation named \"{pattern}\".")
    }
}

/// A line of `\d name` from a row of `information_schema.columns`.
fn column_row(row: &Row) -> Row {
    let data_type = match (cell(row, 3), cell(row, 4), cell(row, 5), cell(row, 6)) {
        (name @ ("character varying" | "character"), length, _, _) if !length.is_empty() => {
            format!("{name}({length})")
        }
        ("numeric", _, precision, scale) if !precision.is_empty() => {
            format!("numeric({precision},{scale})")
        }
        (name, ..) => name.to_owned(),
    };
    let nullable = if cell(row, 7) == "NO" { "not null" } else { "" };
    [cell(row, 2), &data_type, nullable, cell(row, 8)].map(|text| Some(text.to_owned())).into()
}

/// `Indexes:` and a line for each, from names and definitions.
fn index_footer(indexes: &[Row]) -> String {
    if indexes.is_empty() {
        return String::new();
    }
    let line = |row: &Row| {
        let definition = cell(row, 1);
        let unique = if definition.starts_with("CREATE UNIQUE") { "UNIQUE, " } else { "" };
        let how = definition.split_once(" USING ").map_or(definition, |(_, how)| how);
        format!("    \"{}\" {unique}{how}", cell(row, 0))
    };
    let lines: Vec<String> = indexes.iter().map(line).collect();
    format!("Indexes:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_conditions() {
        let conditions = |text| Pattern::parse(text).conditions("s", "n");
        assert_eq!(conditions(""), format!("s NOT IN {SYSTEM_SCHEMAS}"));
        assert_eq!(conditions("Orders"), format!("s NOT IN {SYSTEM_SCHEMAS} AND n = 'orders'"));
        assert_eq!(conditions("\"It's.\""), format!("s NOT IN {SYSTEM_SCHEMAS} AND n = 'It''s.'"));
        assert_eq!(conditions("public.ord*"), "s = 'public' AND n LIKE 'ord%'");
    }
}
