//! Pages of scans: which part of a span a range can answer, and what is left after a page.

use quorate_planner::kv::{ScanRequest, Span};
use quorate_proto::pb;

/// The part of the span that lies in the range.
pub fn clip(span: &Span, range: &pb::RangeDescriptor) -> Span {
    let start = span.start.clone().max(range.start.clone());
    let ends_later = !range.end.is_empty() && range.end < span.end;
    let end = if ends_later { range.end.clone() } else { span.end.clone() };
    Span { start, end }
}

/// What a page speaks for, and what is left of the whole span after it.
pub fn progress(
    req: &ScanRequest,
    clipped: &Span,
    page: &pb::ScanResponse,
) -> (Span, Option<Span>) {
    let whole = &req.span;
    let (covered, left) = match (req.reverse, page.done) {
        (false, true) => (clipped.clone(), Span::new(clipped.end.clone(), whole.end.clone())),
        (false, false) => (
            Span::new(clipped.start.clone(), page.resume.clone()),
            Span::new(page.resume.clone(), whole.end.clone()),
        ),
        (true, true) => (clipped.clone(), Span::new(whole.start.clone(), clipped.start.clone())),
        (true, false) => (
            Span::new(page.resume.clone(), clipped.end.clone()),
            Span::new(whole.start.clone(), page.resume.clone()),
        ),
    };
    let left = (!left.is_empty()).then_some(left);
    (covered, left)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn request(reverse: bool) -> ScanRequest {
        ScanRequest { reverse, ..ScanRequest::all(Span::new("b", "y")) }
    }

    fn page(done: bool, resume: &'static str) -> pb::ScanResponse {
        pb::ScanResponse { done, resume: Bytes::from(resume), ..Default::default() }
    }

    #[test]
    fn a_page_covers_what_it_read_and_leaves_the_rest() {
        let range = pb::RangeDescriptor {
            start: Bytes::from("a"),
            end: Bytes::from("m"),
            ..Default::default()
        };
        let clipped = clip(&request(false).span, &range);
        assert_eq!(clipped, Span::new("b", "m"));
        let (covered, left) = progress(&request(false), &clipped, &page(true, ""));
        assert_eq!((covered, left), (Span::new("b", "m"), Some(Span::new("m", "y"))));
        let (covered, left) = progress(&request(false), &clipped, &page(false, "f"));
        assert_eq!((covered, left), (Span::new("b", "f"), Some(Span::new("f", "y"))));
        let (covered, left) = progress(&request(true), &clipped, &page(true, ""));
        assert_eq!((covered, left), (Span::new("b", "m"), None));
        let (covered, left) = progress(&request(true), &clipped, &page(false, "f"));
        assert_eq!((covered, left), (Span::new("f", "m"), Some(Span::new("b", "f"))));
    }
}
