"""A project's own models of its entries and devices, held against the database that `-x url=…` names.."""

import sqlalchemy as sa
from alembic import context

metadata = sa.MetaData()

sa.Table(
    "devices",
    metadata,
    sa.Column("device_uuid", sa.Uuid, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("connection_type", sa.Text),
    sa.Column("last_seen_at", sa.DateTime(timezone=True)),
)
sa.Table(
    "entries",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("created_at", sa.DateTime(timezone=True), primary_key=True, server_default=sa.func.now()),
    sa.Column("device_uuid", sa.Uuid, sa.ForeignKey("devices.device_uuid")),
    sa.Column("host", sa.Text),
    sa.Column("status", sa.Integer),
    sa.Column("source", sa.Text),
    sa.Index("entries_created_at_idx", "created_at"),
    sa.Index("entries_host_idx", "host"),
)


def include_name(name, kind, _parents):
    """As Alembic's documentation has it for databases that hold more than the models: partitions, an extension's tables."""
    return kind != "table" or name in metadata.tables


engine = sa.create_engine(context.get_x_argument(True)["url"])
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=include_name,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
