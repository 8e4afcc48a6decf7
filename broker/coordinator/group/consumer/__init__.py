"""Consumer groups of the new protocol (KIP-848): the coordinator assigns, members reconcile at their own pace.

`group` is a group as data, changed by `records` alone; `heartbeat` is what members of the new protocol ask,
`classic_members` what members of the classic protocol ask of such a group, `migration` how a group turns from one
kind into the other. `reconciliation` decides what one member may own, `assignors` who should own what, `topics` is
what they know of topics.
"""
