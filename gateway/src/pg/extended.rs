//! Prepared statements and portals of one connection (extended query protocol).

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::Bind;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::types::{Format, PgType, parse_value};

use super::replay::size_of_params;
use super::reply;
use crate::session::{Params, Ready, RowSource};

/// Named statements and portals; the empty name is the unnamed one.
#[derive(Default)]
pub struct Extended {
    statements: HashMap<String, Arc<Ready>>,
    portals: HashMap<String, Portal>,
}

/// A bound statement, perhaps half fetched.
pub struct Portal {
    /// Its statement.
    pub ready: Arc<Ready>,
    /// Its parameters, until it runs.
    pub params: Params,
    /// How each result column travels.
    pub formats: Vec<Format>,
    /// What is left to fetch, once it ran.
    pub rows: Option<RowSource>,
    /// The tag of a command, once it ran.
    pub tag: Option<String>,
    /// Rows sent so far.
    pub sent: usize,
    /// How many savepoints its session had set when it was bound.
    pub savepoints: u64,
}

impl Portal {
    /// Whether it has not run yet.
    pub fn is_fresh(&self) -> bool {
        self.rows.is_none() && self.tag.is_none()
    }
}

/// Larger parameters are not kept to run a statement again.
const PARAMS_BYTES_MAX: usize = 1 << 20;

/// What a portal is made of, to be made again.
pub struct Bound {
    /// Its statement.
    pub ready: Arc<Ready>,
    /// Its parameters.
    pub params: Params,
    /// How each result column travels.
    pub formats: Vec<Format>,
}

impl Bound {
    /// A portal that has not run.
    pub fn portal(&self) -> Portal {
        let (ready, params, formats) =
            (self.ready.clone(), self.params.clone(), self.formats.clone());
        // It is of no block.
        Portal { ready, params, formats, rows: None, tag: None, sent: 0, savepoints: 0 }
    }
}

impl Extended {
    /// What a portal is made of that has not run yet.
    pub fn bound(&self, name: &str) -> Option<Bound> {
        let portal = self.portals.get(name)?;
        let small = size_of_params(&portal.params) <= PARAMS_BYTES_MAX;
        (portal.is_fresh() && small).then(|| Bound {
            ready: portal.ready.clone(),
            params: portal.params.clone(),
            formats: portal.formats.clone(),
        })
    }

    /// A prepared statement.
    pub fn statement(&self, name: &str) -> Option<&Arc<Ready>> {
        self.statements.get(name)
    }

    /// Keeps a statement; the unnamed one is replaced.
    pub fn put_statement(&mut self, name: String, ready: Arc<Ready>) {
        self.statements.insert(name, ready);
    }

    /// Forgets one statement (`DEALLOCATE`), or all.
    pub fn deallocate(&mut self, name: Option<&str>) -> bool {
        match name {
            Some(name) => self.statements.remove(name).is_some(),
            None => {
                self.statements.clear();
                true
            }
        }
    }

    /// A simple query ends the unnamed statement and portal.
    pub fn drop_unnamed(&mut self) {
        self.statements.remove("");
        self.portals.remove("");
    }

    /// Portals live until the end of their transaction.
    pub fn drop_portals(&mut self) {
        self.portals.clear();
    }

    /// Those bound after a savepoint go with what is undone, in which they may have read.
    pub fn drop_portals_since(&mut self, savepoint: u64) {
        self.portals.retain(|_, portal| portal.savepoints < savepoint);
    }

    /// `Close`: what is not there is no error.
    pub fn close(&mut self, target: u8, name: &str) {
        if target == b'S' {
            self.statements.remove(name);
        } else {
            self.portals.remove(name);
        }
    }

    /// Makes a portal of a statement and its parameters, after so many savepoints of the session.
    pub fn bind(&mut self, bind: Bind, savepoints: u64) -> Result<(), SqlError> {
        let name = bind.statement_name.unwrap_or_default();
        let ready = self.find(&name)?.clone();
        let portal_name = bind.portal_name.unwrap_or_default();
        if !portal_name.is_empty() && self.portals.contains_key(&portal_name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{portal_name}\" already exists"),
            ));
        }
        let types = ready.parameters();
        if bind.parameters.len() != types.len() {
            return Err(reply::violation(format!(
                "bind message supplies {} parameters, but prepared statement \"{name}\" \
                 requires {}",
                bind.parameters.len(),
                types.len()
            )));
        }
        let formats = parameter_formats(&bind.parameter_format_codes, types.len())?;
        let mut params = Params::with_capacity(types.len());
        for ((value, ty), format) in bind.parameters.iter().zip(types).zip(formats) {
            params.push(parse_parameter(value.as_deref(), *ty, format)?);
        }
        let columns = ready.columns().map_or(0, <[_]>::len);
        let formats = reply::column_formats(&bind.result_column_format_codes, columns)?;
        let portal = Portal { ready, params, formats, rows: None, tag: None, sent: 0, savepoints };
        self.portals.insert(portal_name, portal);
        Ok(())
    }

    /// Takes a portal out to run it.
    pub fn take_portal(&mut self, name: &str) -> Result<Portal, SqlError> {
        self.portals.remove(name).ok_or_else(|| {
            let message = format!("portal \"{name}\" does not exist");
            SqlError::new(SqlState::INVALID_CURSOR_NAME, message)
        })
    }

    /// Puts it back.
    pub fn put_portal(&mut self, name: String, portal: Portal) {
        self.portals.insert(name, portal);
    }

    /// A prepared statement, or the error that there is none.
    pub fn find(&self, name: &str) -> Result<&Arc<Ready>, SqlError> {
        self.statements.get(name).ok_or_else(|| {
            let message = if name.is_empty() {
                String::from("unnamed prepared statement does not exist")
            } else {
                format!("prepared statement \"{name}\" does not exist")
            };
            SqlError::new(SqlState::INVALID_SQL_STATEMENT_NAME, message)
        })
    }

    /// What `Describe` answers.
    pub fn describe(&self, target: u8, name: &str) -> Result<Vec<PgWireBackendMessage>, SqlError> {
        if target == b'S' {
            let ready = self.find(name)?;
            let oids = ready.parameters().iter().map(PgType::oid).collect();
            let params =
                PgWireBackendMessage::ParameterDescription(ParameterDescription::new(oids));
            return Ok(vec![params, rows_or_none(ready, &[])]);
        }
        let portal = self.portals.get(name).ok_or_else(|| {
            let message = format!("portal \"{name}\" does not exist");
            SqlError::new(SqlState::INVALID_CURSOR_NAME, message)
        })?;
        Ok(vec![rows_or_none(&portal.ready, &portal.formats)])
    }
}

fn rows_or_none(ready: &Ready, formats: &[Format]) -> PgWireBackendMessage {
    match ready.columns() {
        Some(columns) => reply::row_description(columns, formats),
        None => PgWireBackendMessage::NoData(NoData::new()),
    }
}

fn parameter_formats(codes: &[i16], n: usize) -> Result<Vec<Format>, SqlError> {
    if codes.len() > 1 && codes.len() != n {
        return Err(reply::violation(format!(
            "bind message has {} parameter formats but {n} parameters",
            codes.len()
        )));
    }
    reply::column_formats(codes, n)
}

fn parse_parameter(
    value: Option<&[u8]>,
    ty: PgType,
    format: Format,
) -> Result<ScalarValue, SqlError> {
    match value {
        Some(bytes) => parse_value(bytes, ty, format),
        None => ScalarValue::try_from(&ty.arrow()).map_err(SqlError::from),
    }
}
