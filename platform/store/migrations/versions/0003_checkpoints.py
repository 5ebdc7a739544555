"""Containers have checkpoints, and may be suspended to one"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import hostler.store.models

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("container_id", sa.String(length=26), nullable=False),
        sa.Column("account_id", sa.String(length=26), nullable=False),
        sa.Column("node_id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("pages", sa.BigInteger(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("snapshot", sa.String(length=255), nullable=True),
        sa.Column("frozen_ms", sa.Float(), nullable=False),
        sa.Column("writer", sa.String(length=128), nullable=False),
        sa.Column("parent", sa.String(length=26), nullable=True),
        sa.Column("operation_id", sa.String(length=26), nullable=True),
        sa.Column("created_at", hostler.store.models.UtcTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_checkpoints_account_id")),
        sa.ForeignKeyConstraint(["container_id"], ["containers.id"], name=op.f("fk_checkpoints_container_id")),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_checkpoints_node_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
    )
    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_checkpoints_container_id"), ["container_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_checkpoints_node_id"), ["node_id"], unique=False)
        batch_op.create_index("ix_checkpoints_page", ["account_id", "created_at", "id"], unique=False)
    with op.batch_alter_table("containers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("checkpoint_id", sa.String(length=26), nullable=True))
