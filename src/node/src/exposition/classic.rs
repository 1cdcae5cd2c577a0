//! OpenMetrics in the older words: counters and infos are named with their suffix, and units are not spoken of.

/// The same metrics in the text format of Prometheus, version 0.0.4.
pub fn from_openmetrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.rsplit_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            if let Some(meaning) =
                help.take().and_then(|line| line.strip_prefix("# HELP ")?.strip_prefix(name))
            {
                classic.extend(["# HELP ", name, suffix, meaning, "\n"]);
            }
            classic.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            classic.extend([line, "\n"]);
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_join_the_names() {
        let open = "# HELP a_seconds About a.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
            a_seconds_total{b=\"# TYPE\"} 1.5\n# HELP v About v.\n# TYPE v info\nv_info{c=\"d\"} 1\n\
            # HELP g_bytes About g.\n# TYPE g_bytes gauge\n# UNIT g_bytes bytes\ng_bytes 7\n# EOF\n";
        let classic = "# HELP a_seconds_total About a.\n# TYPE a_seconds_total counter\n\
            a_seconds_total{b=\"# TYPE\"} 1.5\n# HELP v_info About v.\n# TYPE v_info gauge\nv_info{c=\"d\"} 1\n\
            # HELP g_bytes About g.\n# TYPE g_bytes gauge\ng_bytes 7\n";
        assert_eq!(from_openmetrics(open), classic);
    }
}
