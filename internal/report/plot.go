package report

import (
	"image/color"
	"io"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colours that people who see colours differently can tell apart: Okabe and Ito's.
var (
	Black      = color.RGBA{A: 255}
	Grey       = color.RGBA{153, 153, 153, 255}
	Orange     = color.RGBA{230, 159, 0, 255}
	Blue       = color.RGBA{0, 114, 178, 255}
	Green      = color.RGBA{0, 158, 115, 255}
	SkyBlue    = color.RGBA{86, 180, 233, 255}
	Vermillion = color.RGBA{213, 94, 0, 255}
	Purple     = color.RGBA{204, 121, 167, 255}
)

// NewPlot returns a plot without curves, in the style of all, with a grid.
func NewPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	for _, style := range []*draw.TextStyle{
		&p.Title.TextStyle, &p.Legend.TextStyle,
		&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label,
	} {
		style.Font.Variant = "Sans"
	}
	p.Add(plotter.NewGrid())
	return p
}

// WriteSVG writes plots that stand one below the other, each of a width and height, their axes aligned.
func WriteSVG(w io.Writer, plots []*plot.Plot, width, height vg.Length) error {
	column := make([][]*plot.Plot, len(plots))
	for i, p := range plots {
		column[i] = []*plot.Plot{p}
	}
	canvas := vgsvg.New(width, height*vg.Length(len(plots)))
	tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadY: vg.Points(8), PadTop: vg.Points(4), PadRight: vg.Points(12)}
	dc := draw.New(canvas)
	dc.SetColor(color.White)
	dc.Fill(dc.Rectangle.Path())
	for i, row := range plot.Align(column, tiles, dc) {
		plots[i].Draw(row[0])
	}
	_, err := canvas.WriteTo(w)
	return err
}

// Decade is the power of ten next to v, above or below as round is math.Ceil or math.Floor.
func Decade(v float64, round func(float64) float64) float64 {
	return math.Pow(10, round(math.Log10(v)))
}

// Durations are the decades of nanoseconds that hold a range.
func Durations(bottom, top float64) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for ns := Decade(bottom, math.Floor); ns <= Decade(top, math.Ceil)*1.0001; ns *= 10 {
		ticks = append(ticks, plot.Tick{Value: ns, Label: NanosecondsRound(ns)})
	}
	return ticks
}
