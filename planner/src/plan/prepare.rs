//! Preparing statements, with the cache in front.

use std::sync::{Arc, LazyLock};

use datafusion::sql::sqlparser::ast;

use super::build::{Build, Scope};
use super::engine::Engine;
use super::{Body, Prepared, PreparedKind, explain};
use crate::cache::{CacheStats, PlanCache};
use crate::catalog::CatalogSnapshot;
use crate::dml;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::kv::LockStrength;
use crate::types::PgType;

/// Settings of a session that change what a statement means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `current_database()`
    pub database: String,
    /// `TimeZone`; only UTC so far.
    pub time_zone: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { database: "quorate".into(), time_zone: "UTC".into() }
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
    catalog_version: u64,
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

/// A statement that becomes a plan, with the locking clauses the parser took off it.
#[derive(Debug, Clone)]
pub struct Plannable {
    /// The statement.
    pub statement: ast::Statement,
    /// Row locks, by table name or alias; for all tables without a name.
    pub locks: Vec<(Option<String>, LockStrength)>,
}

impl Planner {
    /// A planner with an empty cache.
    pub fn new(config: PlannerConfig) -> Self {
        Self {
            engine: Arc::clone(Engine::shared()),
            cache: PlanCache::new(config.cached_statements_max),
        }
    }

    /// Counters of the cache.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Finds a plan or makes it.
    pub fn cached(
        &self,
        statement: Arc<str>,
        catalog: &Arc<CatalogSnapshot>,
        settings: &Settings,
        params: &[Option<PgType>],
        parsed: impl FnOnce() -> SqlResult<Plannable>,
    ) -> SqlResult<Arc<Prepared>> {
        let key = CacheKey {
            statement,
            catalog_version: catalog.version(),
            settings: settings.clone(),
            params: params.to_vec(),
        };
        if let Some(found) = self.cache.get(&key) {
            return Ok(found);
        }
        let prepared = self.plan(parsed()?, catalog, settings, params)?;
        Ok(self.cache.insert(key, Arc::new(prepared)))
    }

    /// Plans a statement.
    fn plan(
        &self,
        parsed: Plannable,
        catalog: &Arc<CatalogSnapshot>,
        settings: &Settings,
        params: &[Option<PgType>],
    ) -> SqlResult<Prepared> {
        let mut build = Build {
            engine: &self.engine,
            catalog,
            database: &settings.database,
            params: params.to_vec(),
            locks: parsed.locks,
        };
        let (kind, body, columns) = plan_statement(&mut build, parsed.statement)?;
        Ok(Prepared { kind, param_types: build.param_types(), columns, body })
    }
}

type Planned = (PreparedKind, Body, Option<Vec<super::OutColumn>>);

fn plan_statement(build: &mut Build<'_>, statement: ast::Statement) -> SqlResult<Planned> {
    match statement {
        ast::Statement::Query(query) => {
            check_locks(build, &query)?;
            let plan = build.logical(ast::Statement::Query(query), Scope::default())?;
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
    let columns = plan.returning.as_ref().map(|template| build.columns(template)).transpose()?;
    let kind = PreparedKind::Dml(Arc::clone(&plan.table));
    Ok((kind, Body::Dml(Box::new(plan)), columns))
}

/// Row locks need rows: they are refused where a result row is no row of a table.
fn check_locks(build: &Build<'_>, query: &ast::Query) -> SqlResult<()> {
    if build.locks.is_empty() {
        return Ok(());
    }
    let refuse = |what: &str| {
        let message = format!("FOR UPDATE is not allowed with {what}");
        Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message))
    };
    let ast::SetExpr::Select(select) = query.body.as_ref() else {
        return refuse("UNION/INTERSECT/EXCEPT");
    };
    if select.distinct.is_some() {
        return refuse("DISTINCT clause");
    }
    let grouped = match &select.group_by {
        ast::GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
        ast::GroupByExpr::All(_) => true,
    };
    if grouped {
        return refuse("GROUP BY clause");
    }
    if select.having.is_some() {
        return refuse("HAVING clause");
    }
    Ok(())
}
