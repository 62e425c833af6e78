//! Preparing statements, with the cache in front.

use std::sync::{Arc, LazyLock};

use datafusion::sql::sqlparser::ast;

use super::build::{Build, Scope};
use super::engine::Engine;
use super::guard::guarded;
use super::locks;
use super::{Body, Prepared, PreparedKind, explain};
use crate::cache::{CacheStats, PlanCache};
use crate::catalog::{CatalogSnapshot, ColumnDef, ColumnId, DdlOp};
use crate::dml;
use crate::error::{SqlError, SqlResult};
use crate::parse::{Parsed, Statement, StatementKind};
use crate::types::{PgType, Zone, zone};

/// Settings of a session that change what a statement means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `current_database()`
    pub database: String,
    /// `TimeZone`
    pub time_zone: Zone,
    /// It reads a moment of the past, when later indexes were not there: rows are found by primary
    /// keys alone.
    pub past: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { database: "quorate".into(), time_zone: Zone::utc(), past: false }
    }
}

/// Tunables of a planner.
#[derive(Debug, Clone, Copy)]
pub struct PlannerConfig {
    /// Planned statements it keeps.
    pub cached_statements_max: usize,
}

impl Default for PlannerConfig {
    fn default() -> Self {
        Self { cached_statements_max: 4096 }
    }
}

/// What a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    statement: Arc<str>,
    /// The text itself, not the fingerprint.
    literal: bool,
    catalog: (u64, u64),
    settings: Settings,
    params: Vec<Option<PgType>>,
}

/// Plans statements and keeps the plans.
#[derive(Debug)]
pub struct Planner {
    engine: Arc<Engine>,
    cache: PlanCache<CacheKey, Prepared>,
}

static SHARED: LazyLock<Arc<Engine>> =
    LazyLock::new(|| Engine::new().expect("DataFusion takes our functions and options"));

impl Engine {
    /// The engine of this process: DataFusion's set-up holds nothing of any session.
    pub fn shared() -> &'static Arc<Engine> {
        &SHARED
    }
}

impl Planner {
    /// A planner with an empty cache.
    pub fn new(config: PlannerConfig) -> Self {
        Self {
            engine: Arc::clone(Engine::shared()),
            cache: PlanCache::new(config.cached_statements_max),
        }
    }

    /// Keeps a plan for others.
    fn keep(&self, key: CacheKey, prepared: Prepared) -> Arc<Prepared> {
        let text = key.statement.len();
        self.cache.insert(key, Arc::new(prepared), text)
    }

    /// Counters of the cache.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Finds a statement's plan or makes it. `params` are the types the client gave.
    pub fn prepare(
        &self,
        statement: &Statement,
        catalog: &Arc<CatalogSnapshot>,
        settings: &Settings,
        params: &[Option<PgType>],
    ) -> SqlResult<Arc<Prepared>> {
        let kind = match &statement.kind {
            StatementKind::Plan => {
                return zone::with(settings.time_zone, || {
                    self.prepare_plan(statement, catalog, settings, params)
                        .map_err(|error| statement.located(error))
                });
            }
            StatementKind::Empty => PreparedKind::Empty,
            StatementKind::Ddl(op) => PreparedKind::Ddl(op.clone()),
            StatementKind::Begin(_)
            | StatementKind::Commit(_)
            | StatementKind::Rollback(_)
            | StatementKind::Savepoint(_)
            | StatementKind::RollbackTo(_)
            | StatementKind::Release(_)
            | StatementKind::SetTransaction(_) => PreparedKind::Transaction(statement.kind.clone()),
            other => PreparedKind::Command(other.clone()),
        };
        let columns = match &statement.kind {
            StatementKind::Show(name) => Some(show_columns(name.as_deref())),
            _ => None,
        };
        Ok(Arc::new(Prepared {
            kind,
            param_types: vec![],
            columns,
            all_types: vec![],
            literal: false,
            locks: None,
            body: Body::None,
        }))
    }

    /// Checks what DDL leaves to planning: that defaults are values of their columns.
    ///
    /// # Errors
    /// What a default says; `0A000` if it names a column or holds a query.
    pub fn check_ddl(
        &self,
        op: &DdlOp,
        catalog: &Arc<CatalogSnapshot>,
        settings: &Settings,
    ) -> SqlResult<()> {
        let DdlOp::CreateTable { columns, .. } = op else { return Ok(()) };
        let mut build = Build {
            engine: &self.engine,
            catalog,
            database: &settings.database,
            params: vec![],
            locks: vec![],
            past: false,
        };
        for column in columns.iter().filter(|column| column.default.is_some()) {
            let column = ColumnDef {
                id: ColumnId(0),
                name: column.name.clone(),
                ty: column.ty,
                nullable: column.nullable,
                default: column.default.clone(),
                hidden: false,
            };
            zone::with(settings.time_zone, || dml::plan::default_expr(&mut build, &column))?;
        }
        Ok(())
    }

    fn prepare_plan(
        &self,
        statement: &Statement,
        catalog: &Arc<CatalogSnapshot>,
        settings: &Settings,
        params: &[Option<PgType>],
    ) -> SqlResult<Arc<Prepared>> {
        let key = |text: &Arc<str>, literal: bool| CacheKey {
            statement: Arc::clone(text),
            literal,
            catalog: catalog.stamp(),
            settings: settings.clone(),
            params: params.to_vec(),
        };
        let lifted_key = key(&statement.fingerprint, false);
        if let Some(found) = self.cache.get(&lifted_key) {
            return Ok(found);
        }
        let literal_key = key(&statement.text, true);
        if !statement.lifted.is_empty()
            && let Some(found) = self.cache.get(&literal_key)
        {
            return Ok(found);
        }
        let mut types = params.to_vec();
        types.resize(statement.params.max(params.len()), None);
        let own = types.len();
        types.extend(statement.lifted_types());
        let parsed = statement.parse_plan()?;
        let planned = guarded(|| self.plan(parsed, catalog, settings, (types, own)))
            .and_then(|planned| planned);
        match planned {
            Ok(prepared) => Ok(self.keep(lifted_key, prepared)),
            Err(error) if statement.lifted.is_empty() => Err(error),
            // Where a literal decides the plan, the statement is planned with its literals.
            Err(_) => {
                let mut types = params.to_vec();
                types.resize(own, None);
                let parsed = statement.parse_literal()?;
                let mut prepared = guarded(|| self.plan(parsed, catalog, settings, (types, own)))??;
                prepared.literal = true;
                Ok(self.keep(literal_key, prepared))
            }
        }
    }

    /// Plans a statement; of its parameters the first `own` are the client's.
    fn plan(
        &self,
        parsed: Parsed,
        catalog: &Arc<CatalogSnapshot>,
        settings: &Settings,
        (params, own): (Vec<Option<PgType>>, usize),
    ) -> SqlResult<Prepared> {
        let mut build = Build {
            engine: &self.engine,
            catalog,
            database: &settings.database,
            params,
            locks: parsed.locks,
            past: settings.past,
        };
        let (kind, body, columns) = plan_statement(&mut build, parsed.statement)?;
        let all_types = build.param_types();
        let param_types = all_types[..own.min(all_types.len())].to_vec();
        let locks = build.locks.iter().map(|clause| clause.strength).max();
        Ok(Prepared { kind, param_types, columns, all_types, literal: false, locks, body })
    }
}

/// The columns of SHOW.
fn show_columns(name: Option<&str>) -> Vec<super::OutColumn> {
    let names: &[&str] = match &name {
        Some(name) => std::slice::from_ref(name),
        None => &["name", "setting", "description"],
    };
    let column = |name: &&str| super::OutColumn {
        name: (*name).to_owned(),
        ty: PgType::Text,
        table_oid: 0,
        column_no: 0,
    };
    names.iter().map(column).collect()
}

type Planned = (PreparedKind, Body, Option<Vec<super::OutColumn>>);

fn plan_statement(build: &mut Build<'_>, statement: ast::Statement) -> SqlResult<Planned> {
    match statement {
        ast::Statement::Query(query) => {
            locks::check(build, &query)?;
            let plan = build.logical(ast::Statement::Query(query), Scope::default())?;
            let plan = locks::lock_rows(plan, &build.locks)?;
            let template = build.template(plan)?;
            let columns = build.columns(&template)?;
            Ok((PreparedKind::Query, Body::Query(template), Some(columns)))
        }
        ast::Statement::Insert(insert) => {
            let plan = dml::plan::insert(build, insert)?;
            writes(build, plan)
        }
        ast::Statement::Update(update) => {
            let plan = dml::plan::update(build, update)?;
            writes(build, plan)
        }
        ast::Statement::Delete(delete) => {
            let plan = dml::plan::delete(build, delete)?;
            writes(build, plan)
        }
        ast::Statement::Explain { statement, analyze, .. } => {
            let (_, inner, _) = plan_statement(build, *statement)?;
            let body = Body::Explain { inner: Box::new(inner), analyze };
            Ok((PreparedKind::Explain(analyze), body, Some(explain::columns())))
        }
        other => {
            let text = other.to_string();
            let word = text.split_whitespace().next().unwrap_or("this").to_uppercase();
            Err(SqlError::unsupported(format_args!("the statement {word}")))
        }
    }
}

fn writes(build: &Build<'_>, plan: dml::DmlPlan) -> SqlResult<Planned> {
    let columns = plan.returning.as_ref().map(|r| build.columns(&r.rows)).transpose()?;
    Ok((PreparedKind::Dml, Body::Dml(Box::new(plan)), columns))
}
