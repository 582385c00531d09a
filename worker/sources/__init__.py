"""Where a snapshot comes from.

A source is an iterator of `schemas.EnrolmentRow`. That it ends says that it was read whole: every row could be read,
and there were as many as it, or whoever asked, counts. Otherwise it raises SourceIncomplete, at the latest where it
would end; whoever takes its rows uses none of them before. It yields what the source says, without judging it.
"""
