//! Windows with names, put where they are used. DataFusion does that in select lists only, and does
//! not see that one window builds on another (`OVER (w ROWS …)`).

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, NamedWindowExpr, Query, Select, SetExpr, Statement, VisitMut, VisitorMut,
    WindowSpec, WindowType,
};

use crate::error::{SqlError, SqlResult, SqlState};
use crate::plan::rewrite::folded;

/// Puts them there. Subqueries come first: a name means the window of its own SELECT.
pub(super) fn resolve(statement: &mut Statement) -> SqlResult<()> {
    struct Selects;
    impl VisitorMut for Selects {
        type Break = SqlError;

        fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
            let mut windows = of_select(select)?;
            VisitMut::visit(&mut select.projection, &mut windows)?;
            VisitMut::visit(&mut select.distinct, &mut windows)
        }

        fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
            let SetExpr::Select(select) = query.body.as_ref() else {
                return ControlFlow::Continue(());
            };
            let mut windows = of_select(select)?;
            VisitMut::visit(&mut query.order_by, &mut windows)
        }
    }
    match VisitMut::visit(statement, &mut Selects) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The windows of one SELECT.
#[derive(Default)]
struct Windows(Vec<(String, WindowSpec)>);

/// A window may build on one that stands before it.
fn of_select(select: &Select) -> ControlFlow<SqlError, Windows> {
    let mut windows = Windows::default();
    for ast::NamedWindowDefinition(name, window) in &select.named_window {
        let name = folded(name);
        if windows.0.iter().any(|(known, _)| *known == name) {
            let message = format!("window \"{name}\" is already defined");
            return ControlFlow::Break(SqlError::new(SqlState::WINDOWING_ERROR, message));
        }
        let spec = match window {
            NamedWindowExpr::WindowSpec(spec) => windows.built(spec.clone())?,
            NamedWindowExpr::NamedWindow(other) => windows.get(other)?.clone(),
        };
        windows.0.push((name, spec));
    }
    ControlFlow::Continue(windows)
}

impl Windows {
    fn get(&self, name: &Ident) -> ControlFlow<SqlError, &WindowSpec> {
        let name = folded(name);
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, spec)) => ControlFlow::Continue(spec),
            None => {
                let message = format!("window \"{name}\" does not exist");
                ControlFlow::Break(SqlError::new(SqlState::UNDEFINED_OBJECT, message))
            }
        }
    }

    /// A window with what it takes over from the one it names.
    fn built(&self, mut spec: WindowSpec) -> ControlFlow<SqlError, WindowSpec> {
        let Some(name) = spec.window_name.take() else { return ControlFlow::Continue(spec) };
        let base = self.get(&name)?;
        let name = folded(&name);
        let refused = if !spec.partition_by.is_empty() {
            format!("cannot override PARTITION BY clause of window \"{name}\"")
        } else if !spec.order_by.is_empty() && !base.order_by.is_empty() {
            format!("cannot override ORDER BY clause of window \"{name}\"")
        } else if base.window_frame.is_some() {
            format!("cannot copy window \"{name}\" because it has a frame clause")
        } else {
            spec.partition_by.clone_from(&base.partition_by);
            if spec.order_by.is_empty() {
                spec.order_by.clone_from(&base.order_by);
            }
            return ControlFlow::Continue(spec);
        };
        ControlFlow::Break(SqlError::new(SqlState::WINDOWING_ERROR, refused))
    }
}

impl VisitorMut for Windows {
    type Break = SqlError;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        call.over = match call.over.take() {
            Some(WindowType::NamedWindow(name)) => {
                Some(WindowType::WindowSpec(self.get(&name)?.clone()))
            }
            Some(WindowType::WindowSpec(spec)) => Some(WindowType::WindowSpec(self.built(spec)?)),
            None => None,
        };
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::super::parse;
    use crate::testing::MemDb;

    /// The statement with its windows in place, without its WINDOW clause.
    fn resolved(text: &str) -> String {
        let parsed = parse(text).and_then(|all| all[0].parse_literal());
        let text = parsed.expect(text).statement.to_string();
        text.split(" WINDOW ").next().unwrap_or_default().to_owned()
    }

    fn refused(text: &str) -> (String, String) {
        let parsed = parse(text).and_then(|all| all[0].parse_plan());
        let error = parsed.expect_err(text);
        (error.sqlstate.code().to_owned(), error.message.clone())
    }

    #[test]
    fn a_name_stands_for_its_window() {
        let text = "SELECT sum(a) OVER w FROM t WINDOW w AS (PARTITION BY b)";
        assert_eq!(resolved(text), "SELECT sum(a) OVER (PARTITION BY b) FROM t");
        let text = "SELECT sum(a) OVER (w ROWS 1 PRECEDING) FROM t WINDOW w AS (ORDER BY b)";
        assert_eq!(resolved(text), "SELECT sum(a) OVER (ORDER BY b ROWS 1 PRECEDING) FROM t");
        let text = "SELECT sum(a) OVER v FROM t WINDOW w AS (PARTITION BY b), v AS (w ORDER BY c)";
        assert_eq!(resolved(text), "SELECT sum(a) OVER (PARTITION BY b ORDER BY c) FROM t");
        let text = "SELECT (SELECT sum(a) OVER w FROM u WINDOW w AS (ORDER BY 1)) FROM t \
                    WINDOW w AS (ORDER BY 2)";
        assert_eq!(resolved(text), "SELECT (SELECT sum(a) OVER (ORDER BY 1) FROM u");
        let text = "SELECT a FROM t WINDOW w AS (ORDER BY b) ORDER BY row_number() OVER w";
        let all = parse(text).expect(text)[0].parse_literal().expect(text).statement.to_string();
        assert!(all.ends_with("ORDER BY row_number() OVER (ORDER BY b)"), "{all}");
    }

    #[test]
    fn windows_build_on_others_and_sort() {
        let db = MemDb::new();
        let rows = |sql: &str| {
            let answer = block_on(db.run(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            let cell = |row: &Vec<Option<String>>| row[0].clone().unwrap_or_default();
            answer.rows.iter().map(cell).collect::<Vec<_>>()
        };
        let sql = "select sum(n) over (w rows 1 preceding) from generate_series(1, 4) as s (n) \
                   window w as (partition by n % 2 order by n) order by n";
        assert_eq!(rows(sql), ["1", "2", "4", "6"]);
        let sql = "select n from generate_series(1, 3) as s (n) window w as (order by n desc) \
                   order by row_number() over w";
        assert_eq!(rows(sql), ["3", "2", "1"]);
    }

    #[test]
    fn windows_that_do_not_fit_together_are_refused() {
        let of = |over: &str, windows: &str| {
            refused(&format!("select sum(a) over {over} from t window {windows}"))
        };
        let windowing = |message: &str| ("42P20".to_owned(), message.to_owned());
        assert_eq!(
            of("(w partition by b)", "w as (order by b)"),
            windowing("cannot override PARTITION BY clause of window \"w\"")
        );
        assert_eq!(
            of("(w order by b)", "w as (order by b)"),
            windowing("cannot override ORDER BY clause of window \"w\"")
        );
        assert_eq!(
            of("(w)", "w as (order by b rows 1 preceding)"),
            windowing("cannot copy window \"w\" because it has a frame clause")
        );
        assert_eq!(of("w", "w as (), w as ()"), windowing("window \"w\" is already defined"));
        let missing = ("42704".to_owned(), "window \"v\" does not exist".to_owned());
        assert_eq!(of("v", "w as ()"), missing);
        assert_eq!(of("(v rows 1 preceding)", "w as ()"), missing);
    }

    #[test]
    fn a_frame_that_excludes_rows_is_refused() {
        for what in ["current row", "group", "ties", "no others"] {
            let text = format!(
                "select sum(a) over (order by a rows between 1 preceding and 1 following \
                 exclude {what}) from t"
            );
            let (state, message) = refused(&text);
            assert_eq!(state, "0A000", "{what}");
            assert_eq!(message, "EXCLUDE in the frame of a window is not supported");
        }
    }
}
